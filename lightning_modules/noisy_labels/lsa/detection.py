"""Detection of noisy training images, and of how far the guesses for them can be trusted.

With l_i the cross-entropy of the given label, q_i that of the tracked guess, and v_i features of a middle layer,

    P_i = probability that l_i belongs to the higher of two modes of all losses,
    loss:    image i is noisy where P_i > threshold                        (small loss)
    linear:  image i is noisy where a logistic regression on v, trained on the small-loss verdicts, says so
    w_i = probability that q_i belongs to the lower of two modes of the noisy images' pseudo-losses; 1 elsewhere.

The linear verdict refines the small-loss verdict of the same epoch: out-of-distribution images are linearly separable
in self-supervised features. Accurate as this detection is, alone it makes no better classifier: among what it flags are
clean images of value for training, often visually simple ones, which small loss easily knows to be clean. So LSA takes
turns, epoch by epoch.

Source: Albert, Arazo, O'Connor and McGuinness, An accurate detection is not all you need to combat label noise in
web-noisy datasets, ECCV 2024, arXiv 2407.05528, with the settings of the authors' code; w is that of PLS (the same
authors, Is your noise correction noisy? PLS: Robustness to label noise with two stage detection, WACV 2023, arXiv
2210.04578).
"""

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_modules.noisy_labels.lsa.loss_mixture import high_mode_probability

Detector = Literal["linear", "loss"]


class FlaggedImages(NamedTuple):
    """Findings of one network in the training set."""

    is_noisy: NDArray[np.bool_]
    """`[N]`."""
    score: NDArray[np.float64]
    """`[N]`: the greater, the more likely noisy; of no fixed range."""
    weight: NDArray[np.float64]
    """`[N]`, in [0, 1]: w."""


def detector_of_epoch(detectors: Sequence[Detector], epoch: int) -> Detector:
    """The detectors take turns: epoch e, counted from 0, ends with the one at e modulo their number."""
    return detectors[epoch % len(detectors)]


def small_loss(loss: NDArray, threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The verdicts P > threshold, and P.

    Args:
        loss: `[N]`: l.
        threshold: in (0, 1).
    """
    probability = high_mode_probability(loss)
    return probability > threshold, probability


def linear_separation(feature: NDArray, verdict: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Refines verdicts by a hyperplane: an unpenalised logistic regression, classes weighted to balance.

    Args:
        feature: `[N, D]`: v, standardised here.
        verdict: `[N]`, to be refined.

    Returns:
        Verdicts and signed distances to the hyperplane, up to its scale, both `[N]`. Where all verdicts are equal
        there is nothing to separate, and they stay.
    """
    import sklearn
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if verdict.all() or not verdict.any():
        return verdict.copy(), verdict.astype(np.float64)
    # Version 1.8 deprecates penalty=None for an infinite C, which older ones refuse.
    release = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
    unpenalised = {"C": np.inf} if release >= (1, 8) else {"penalty": None}
    standardised = StandardScaler().fit_transform(np.asarray(feature, dtype=np.float64))
    classifier = LogisticRegression(max_iter=1000, class_weight="balanced", **unpenalised)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable features let the weights grow for ever
        classifier.fit(standardised, verdict)
    score = classifier.decision_function(standardised)
    return score > 0, score


def confidence(pseudo_loss: NDArray, is_noisy: NDArray[np.bool_]) -> NDArray[np.float64]:
    """w: how far each guess can be trusted.

    Args:
        pseudo_loss: `[N]`: q.
        is_noisy: `[N]`.

    Returns:
        `[N]`, in [0, 1]; 1 where an image is not noisy, and everywhere where there are at most two noisy ones or one of
        theirs is NaN.
    """
    weight = np.ones(len(is_noisy))
    own = np.asarray(pseudo_loss, dtype=np.float64)[is_noisy]
    if len(own) > 2 and not np.isnan(own).any() and np.isfinite(own).any():
        weight[is_noisy] = 1 - high_mode_probability(own)
    return weight


def detect(
    detector: Detector, loss: NDArray, pseudo_loss: NDArray, feature: NDArray, threshold: float
) -> FlaggedImages:
    """One network's verdicts and weights.

    Args:
        detector: linear or loss.
        loss: `[N]`: l.
        pseudo_loss: `[N]`: q.
        feature: `[N, D]`: v.
        threshold: probability above which small loss calls an image noisy, in (0, 1).
    """
    is_noisy, score = small_loss(loss, threshold)
    if detector == "linear":
        is_noisy, score = linear_separation(feature, is_noisy)
    return FlaggedImages(is_noisy, score, confidence(pseudo_loss, is_noisy))


def agreement(first: FlaggedImages, second: FlaggedImages) -> FlaggedImages:
    """Combine two networks (PLS-LSA+): noisy where both say so, with the mean of their weights; 1 elsewhere."""
    both = first.is_noisy & second.is_noisy
    weight = np.where(both, (first.weight + second.weight) / 2, 1.0)
    return FlaggedImages(both, (ranks(first.score) + ranks(second.score)) / 2, weight)


def ranks(score: NDArray) -> NDArray[np.float64]:
    """Ranks in [0, 1], equal for equal scores, so that scores of different ranges can be averaged."""
    from scipy.stats import rankdata

    rank = rankdata(score, method="dense") - 1
    return rank / max(rank.max(), 1)


def detection_metrics(found: FlaggedImages, wrong: NDArray[np.bool_] | None) -> dict[str, float]:
    """Measure the verdicts against the truth.

    Args:
        found: verdicts and scores.
        wrong: `[N]`: whether the given label is truly wrong or the image out of distribution; None where unknown.

    Returns:
        `noisy`, the share that was flagged, and where the truth is known `detection_precision`, `detection_recall`,
        `detection_auroc` and `clean_flagged`, the flagged share of the clean images; those alone that are defined.
    """
    metrics = {"noisy": float(found.is_noisy.mean())}
    if wrong is None:
        return metrics
    hits = float((found.is_noisy & wrong).sum())
    if found.is_noisy.any():
        metrics["detection_precision"] = hits / float(found.is_noisy.sum())
    if wrong.any():
        metrics["detection_recall"] = hits / float(wrong.sum())
    if not wrong.all():
        metrics["clean_flagged"] = float(found.is_noisy[~wrong].mean())
    if wrong.any() and not wrong.all():
        from sklearn.metrics import roc_auc_score

        metrics["detection_auroc"] = float(roc_auc_score(wrong, found.score))
    return metrics
