"""Detect noisy training images, and estimate the reliability of the guessed labels.

For image i, let l_i be the cross-entropy with the label in the dataset, q_i the cross-entropy with the stored guess
(pseudo-loss), and v_i the features of a middle layer:

    P_i = probability that l_i belongs to the higher of the two modes of all losses,

    loss: image i is noisy if P_i > threshold (small loss)

    linear: image i is noisy if a logistic regression on v, fitted to the small-loss flags, flags it

    w_i = probability that q_i belongs to the lower of the two modes of q over the noisy images; 1 for clean images.

The modes are the components of a one-dimensional mixture of two normal distributions. Wrongly labelled examples are
learned later than correctly labelled ones, and their losses therefore form the higher mode. Losses are first rescaled
to [0, 1], so that the result does not depend on their scale.

The linear detector refines the small-loss flags of the same epoch. It works because out-of-distribution images are
linearly separable in self-supervised features. The linear detector is accurate, but also flags some clean images that
are valuable for training. Used alone, it therefore does not improve the classifier. The wrongly flagged images are
often visually simple, and the small-loss detector easily recognises them as clean. LSA therefore alternates between the
two detectors by epoch.

Source: Albert, Arazo, O'Connor and McGuinness, An accurate detection is not all you need to combat label noise in
web-noisy datasets, ECCV 2024, arXiv 2407.05528, with the settings of the authors' code. The weight w is from PLS (the
same authors, Is your noise correction noisy? PLS: Robustness to label noise with two stage detection, WACV 2023, arXiv
2210.04578). The mixture is from Arazo, Ortego, Albert, O'Connor and McGuinness, Unsupervised Label Noise Modeling and
Loss Correction, ICML 2019, arXiv 1904.11238. Here, its components are normal distributions, as in DivideMix (Li, Socher
and Hoi, ICLR 2020, arXiv 2002.07394).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.arguments import within


def min_max(values: ArrayLike) -> NDArray[np.float64]:
    """Rescale values `[N]` to [0, 1] by (v - min v) / (max v - min v); return zeros if all values are equal.

    Infinite values are replaced with the largest finite value.

    Raises:
        ValueError: if a value is NaN, or if no value is finite.
    """
    v = np.asarray(values, dtype=np.float64)
    if np.isnan(v).any():
        raise ValueError(f"losses must be numbers, but {int(np.isnan(v).sum())} of {len(v)} are NaN")
    finite = v[np.isfinite(v)]
    if len(finite) == 0:
        raise ValueError(f"none of {len(v)} losses is finite")
    lowest, highest = finite.min(), finite.max()
    if highest == lowest:
        return np.zeros_like(v)
    return np.clip((v - lowest) / (highest - lowest), 0.0, 1.0)


def high_mode_probability(
    losses: ArrayLike, max_iter: int = 10, tol: float = 1e-2, reg_covar: float = 5e-4, random_state: int = 0
) -> NDArray[np.float64]:
    """Compute the posterior probability that each loss belongs to the mixture component with the larger mean.

    Args:
        losses: `[N]`.
        max_iter: maximum number of iterations of expectation maximisation (EM).
        tol: EM stops when an iteration increases the mean log-likelihood by less than this value.
        reg_covar: constant added to the variances, in units of the rescaled losses.
        random_state: random seed for the initialisation of the mixture.

    Returns:
        Probabilities `[N]`. All are 0 if all losses are equal, or if there are fewer than two losses.

    Raises:
        ValueError: if a loss is NaN.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    scaled = min_max(losses)[:, None]
    if len(scaled) < 2 or scaled.max() == 0:
        return np.zeros(len(scaled))
    mixture = GaussianMixture(
        n_components=2, max_iter=max_iter, tol=tol, reg_covar=reg_covar, random_state=random_state
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is part of the method
        mixture.fit(scaled)
    return mixture.predict_proba(scaled)[:, int(np.argmax(mixture.means_[:, 0]))]


Detector = Literal["linear", "loss"]


@dataclass(frozen=True)
class Detection:
    """How noisy images are detected.

    Args:
        detectors: names of the detectors: `linear`, `loss` or both. Two detectors alternate by epoch.
        threshold: probability above which the small-loss detector flags an image, in (0, 1).
        feature_layer: name of the layer whose pooled outputs are the features of the linear detector.
    """

    detectors: Sequence[Detector] = ("linear", "loss")
    threshold: float = 0.95
    feature_layer: str = "layer2"

    def __post_init__(self) -> None:
        known = get_args(Detector)
        if not self.detectors or any(each not in known for each in self.detectors):
            raise ValueError(f"detectors must be a list of {' and '.join(known)}, got {list(self.detectors)}")
        within(0, 1, "()", threshold=self.threshold)


class FlaggedImages(NamedTuple):
    """Flags, scores and weights of the training images, computed by one network."""

    is_noisy: NDArray[np.bool_]
    """Whether each image is flagged as noisy, `[N]`."""
    score: NDArray[np.float64]
    """Score of each image, `[N]`; higher scores mean that the image is more likely noisy. The range is not fixed."""
    weight: NDArray[np.float64]
    """Weight w, `[N]`, in [0, 1]."""


def detector_of_epoch(detectors: Sequence[Detector], epoch: int) -> Detector:
    """Return the detector of an epoch.

    If there are n detectors, epoch e (counted from 0) uses the detector with the index e modulo n.
    """
    return detectors[epoch % len(detectors)]


def small_loss(loss: NDArray, threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Flag the images with P > threshold as noisy.

    The function returns the flags and P, both `[N]`.

    Args:
        loss: losses l, `[N]`.
        threshold: threshold of P, in (0, 1).
    """
    probability = high_mode_probability(loss)
    return probability > threshold, probability


def linear_separation(feature: NDArray, verdict: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Refine flags by a logistic regression on features, without a penalty and with balanced class weights.

    Args:
        feature: features v, `[N, D]`; this function standardises them.
        verdict: flags to refine, `[N]`.

    Returns:
        Refined flags, and signed distances to the hyperplane up to a common factor, both `[N]`. If all flags are
        equal, they are returned unchanged.
    """
    import sklearn
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if verdict.all() or not verdict.any():
        return verdict.copy(), verdict.astype(np.float64)
    # scikit-learn 1.8 deprecates penalty=None in favour of an infinite C, which older versions reject
    release = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
    unpenalised = {"C": np.inf} if release >= (1, 8) else {"penalty": None}
    standardised = StandardScaler().fit_transform(np.asarray(feature, dtype=np.float64))
    classifier = LogisticRegression(max_iter=1000, class_weight="balanced", **unpenalised)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weights diverge if the features are separable
        classifier.fit(standardised, verdict)
    score = classifier.decision_function(standardised)
    return score > 0, score


def confidence(pseudo_loss: NDArray, is_noisy: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the reliability weight w of each guess.

    Args:
        pseudo_loss: pseudo-losses q, `[N]`.
        is_noisy: whether each image is flagged as noisy, `[N]`.

    Returns:
        Weights `[N]` in [0, 1]; the weight of an image that is not flagged is 1. All weights are 1 if at most two
        images are flagged, or if q is NaN for a flagged image.
    """
    weight = np.ones(len(is_noisy))
    own = np.asarray(pseudo_loss, dtype=np.float64)[is_noisy]
    if len(own) > 2 and not np.isnan(own).any() and np.isfinite(own).any():
        weight[is_noisy] = 1 - high_mode_probability(own)
    return weight


def detect(
    detector: Detector, loss: NDArray, pseudo_loss: NDArray, feature: NDArray, threshold: float
) -> FlaggedImages:
    """Compute the flags, scores and weights for one network.

    Args:
        detector: detector of this epoch, `linear` or `loss`.
        loss: losses l, `[N]`.
        pseudo_loss: pseudo-losses q, `[N]`.
        feature: features v, `[N, D]`.
        threshold: probability above which the small-loss detector flags an image, in (0, 1).
    """
    is_noisy, score = small_loss(loss, threshold)
    if detector == "linear":
        is_noisy, score = linear_separation(feature, is_noisy)
    return FlaggedImages(is_noisy, score, confidence(pseudo_loss, is_noisy))


def agreement(first: FlaggedImages, second: FlaggedImages) -> FlaggedImages:
    """Combine the flags of two networks (PLS-LSA+).

    An image is flagged if both networks flag it. The weight of a flagged image is the mean of its two weights; all
    other images have the weight 1.
    """
    both = first.is_noisy & second.is_noisy
    weight = np.where(both, (first.weight + second.weight) / 2, 1.0)
    return FlaggedImages(both, (score_ranks(first.score) + score_ranks(second.score)) / 2, weight)


def score_ranks(score: NDArray) -> NDArray[np.float64]:
    """Compute the ranks of scores, and rescale the ranks to [0, 1]; equal scores have equal ranks.

    Even if scores have different ranges, their ranks can be averaged.
    """
    from scipy.stats import rankdata

    rank = rankdata(score, method="dense") - 1
    return rank / max(rank.max(), 1)


def flag_metrics(found: FlaggedImages, wrong: NDArray[np.bool_] | None) -> dict[str, float]:
    """Evaluate the flags and scores by comparison with the true labels.

    Args:
        found: flags and scores of the training images.
        wrong: whether each image is truly mislabelled or out of distribution, `[N]`; None if unknown.

    Returns:
        Metrics by name. `noisy` is the fraction of flagged images. If `wrong` is given, there are also
        `detection_precision`, `detection_recall`, `detection_auroc`, and `clean_flagged`, the fraction of clean images
        that are flagged. Undefined metrics are omitted.
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
