"""Score labels by the predictions of a classifier, and measure the reliability of label reports."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from datamodules.batches import UNVERIFIED


def label_score(probability: Tensor, label: Tensor) -> Tensor:
    """Score each given label by its normalised margin, which is larger the more the classifier agrees with the label.

        s_i = (p_i[y_i] - max_{k != y_i} p_i[k] + 1) / 2

    Args:
        probability: class probabilities `[B, K]` with K >= 2; each row sums to one.
        label: given labels, `[B]`, int64.

    Returns:
        Scores `[B]` in [0, 1]. A score is below 1/2 if and only if a different class is more probable than the given
        class.

    Source: Kuan and Mueller, Model-agnostic label quality scoring to detect real-world label errors, ICML 2022
    DataPerf workshop.
    """
    own = probability.gather(1, label[:, None])
    others = probability.scatter(1, label[:, None], -torch.inf)
    return (own[:, 0] - others.amax(dim=1) + 1) / 2


def compare_with_labels(probability: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Compare a classifier's predictions with the given labels.

    Args:
        probability: class probabilities `[B, K]`, float64, with K >= 2; each row sums to one.
        label: given labels, `[B]`, int64.

    Returns:
        The columns of a label report, each `[B]`.
    """
    highest, proposed = probability.max(dim=1)
    return {
        "given": label,
        "proposed": proposed,
        "probability_given": probability.gather(1, label[:, None])[:, 0],
        "probability_proposed": highest,
        "score": label_score(probability, label),
    }


def precision_and_recall(suspected: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> tuple[float, float]:
    """Compute the precision and recall of the suspected labels.

    Args:
        suspected: whether each label is suspected, `[N]`.
        wrong: whether each given label differs from the true label, `[N]`.

    Returns:
        Precision |suspected and wrong| / |suspected| and recall |suspected and wrong| / |wrong|; either is 0 if its
        denominator is 0.
    """
    found = float((suspected & wrong).sum())
    return found / max(float(suspected.sum()), 1.0), found / max(float(wrong.sum()), 1.0)


def report_metrics(
    given: NDArray[np.int64], suspected: NDArray[np.bool_], score: NDArray[Any], clean_label: NDArray[np.int64] | None
) -> dict[str, float]:
    """Compute the metrics of a label report, including its reliability if true labels are known.

    Args:
        given: given labels, `[N]`.
        suspected: whether each label is suspected, `[N]`.
        score: label scores in [0, 1], `[N]`.
        clean_label: true labels, `[N]`, with `UNVERIFIED` for unknown labels; None if all are unknown.

    Returns:
        Metrics by name: `labels_suspected` is computed over all labels, and `label_precision`, `label_recall` and
        `label_auroc` are computed over the verified labels.
    """
    metrics = {"labels_suspected": float(suspected.mean())}
    verified = np.zeros(len(given), dtype=bool) if clean_label is None else clean_label != UNVERIFIED
    if clean_label is None or not verified.any():
        return metrics
    wrong = (given != clean_label)[verified]
    metrics["label_precision"], metrics["label_recall"] = precision_and_recall(suspected[verified], wrong)
    if 0 < wrong.sum() < len(wrong):
        auroc = binary_auroc(torch.from_numpy(1 - score[verified]), torch.from_numpy(wrong).long())
        metrics["label_auroc"] = float(auroc)
    return metrics


def find_label_issues(label: NDArray[np.int64], probability: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find label issues by cleanlab with its default settings, except that no further processes are started.

    Args:
        label: given labels, `[N]`.
        probability: class probabilities, `[N, K]`.

    Returns:
        Mask of the labels that are issues, `[N]`.
    """
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes without examples
        return find_label_issues(label, probability, n_jobs=1)
