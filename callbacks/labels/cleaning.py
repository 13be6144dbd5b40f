"""Derive cleaned training labels from a label report, and estimate the fraction of wrong labels.

Both tasks compare the class probabilities p_i of each image i with thresholds. The threshold of class k is its
self-confidence: the mean probability of k over the n_k images with given label k,

    t_k = (1/n_k) sum_{i: y_i = k} p_i[k]

Source: Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021,
arXiv 1911.00068 (equation 2).
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.corruptions.label_noise.recorded import ACTIONS

CLEANED = "cleaned_labels.csv"
ROUNDING = 1e-12
"""Tolerance of comparisons with a mean: due to rounding, the mean of equal numbers may be larger than each of them."""


def with_actions(table: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `action`, `label` and `confidence` to a label report.

    The action depends on the label y, the class probabilities p, the proposed class k = argmax p and the thresholds t:

        keep     if the label is not suspected, or p[y] >= t_y
        relabel  otherwise, if k != y and p[k] >= t_k
        drop     otherwise: the label is suspected, and no class is confident

    `label` is k for `relabel` and y otherwise. `confidence` is p[y] for `keep`, p[k] for `relabel` and 1 - p[y] for
    `drop`. If no given label has the class k, there is no threshold t_k, and no image is relabelled to k.

    The thresholds are those of confident learning, with one difference: a label with p[y] >= t_y is always kept here.
    Confident learning counts such a label as wrong if a different class is more probable and reaches its threshold.
    """
    given, another = _confident(table)
    wrong = (table["suspected"] == 1).to_numpy() & ~given
    relabel = wrong & another
    own, highest = table["probability_given"], table["probability_proposed"]
    return table.assign(
        action=np.select([~wrong, relabel], ACTIONS[:2], ACTIONS[2]),
        label=np.where(relabel, table["proposed"], table["given"]),
        confidence=np.select([~wrong, relabel], [own, highest], 1 - own),
    )


def cleaned_labels(table: pd.DataFrame) -> pd.DataFrame:
    """Derive the labels for training from a label report. The result is a table in dataset order, for `FromCSV`.

    The columns are `index` (position in the whole dataset, as in `labels.csv`), `name` if known, `label` (the label to
    train on), `action`, `confidence`, `given` and, if known, `clean_label`. See `with_actions`. If the report has class
    names, `label_name` and `given_name` follow `label` and `given`.
    """
    decided = with_actions(table)
    if "given_name" in decided:
        relabelled = decided["label"] != decided["given"]
        decided["label_name"] = decided["proposed_name"].where(relabelled, decided["given_name"])
    if "row" in decided:
        decided["index"] = decided["row"]
    columns = ("index", "name", "label", "label_name", "action", "confidence", "given", "given_name", "clean_label")
    decided = decided.filter(columns)
    return decided.sort_values("index", ignore_index=True)


def wrong_fraction(table: pd.DataFrame, resamples: int = 1000) -> dict[str, float]:
    """Estimate the fraction of wrong labels by the confident joint; bootstrap over images to obtain an interval.

    Of the N images, let n_y have the given label y. Of these, c_y images count for y, because p[y] >= t_y; and o_y
    images count for a different class, because the proposed class is k != y and p[k] >= t_k. Images that meet neither
    condition are not counted:

        fraction = (1/N) sum_y n_y o_y / (c_y + o_y)

    The ends of the interval are the 2.5 and 97.5 % quantiles over resampled sets of images, with the thresholds t
    fixed. The upper end is never below the upper end that the Clopper-Pearson interval has if none of the counted
    labels is wrong. The interval covers only the sampling error. The estimate is biased if the network memorises false
    labels or confuses classes.

    In the original confident learning, an image counts for the most probable of all classes k with p[k] >= t_k. A
    report contains only the probabilities of the given class and of the most probable class. Here, therefore, an image
    can count only for one of these two classes.

    Args:
        table: label report.
        resamples: number of resampled sets of images.

    Returns:
        The metrics `labels_wrong_estimate`, `labels_wrong_low` and `labels_wrong_high`.
    """
    given, another = _confident(table)
    kind = np.select([another, given], [0, 1], 2)
    category, code = np.unique(table["given"], return_inverse=True)
    count = np.bincount(3 * code + kind, minlength=3 * len(category))
    resampled = np.random.default_rng(0).multinomial(len(table), count / len(table), size=resamples)
    low, high = np.quantile(_off_diagonal(resampled), [0.025, 0.975])
    high = max(high, 1 - 0.025 ** (1 / (kind < 2).sum()))  # if no image counts for a different class, all samples agree
    estimate = float(_off_diagonal(count[None])[0])
    return {"labels_wrong_estimate": estimate, "labels_wrong_low": float(low), "labels_wrong_high": float(high)}


def _confident(table: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return two masks of images.

    The first mask contains the images whose probability of the given class reaches the threshold of this class. The
    second mask contains the images whose proposed class differs from the given class, and whose probability of the
    proposed class reaches the threshold of that class.
    """
    threshold = table.groupby("given")["probability_given"].mean() - ROUNDING
    given = table["probability_given"] >= table["given"].map(threshold)
    proposed = table["probability_proposed"] >= table["proposed"].map(threshold)
    return given.to_numpy(), (proposed & (table["proposed"] != table["given"])).to_numpy()


def _off_diagonal(count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each set's fraction of wrong labels; `count`, `[sets, 3 K]`, has o, c and neither for each class."""
    count = count.reshape(len(count), -1, 3)
    of_counted = count[..., 0] / np.maximum(count[..., :2].sum(axis=-1), 1)
    return (count.sum(axis=-1) * of_counted).sum(axis=-1) / count.sum(axis=(-2, -1))
