"""Metrics of a confidence that tells inputs in distribution, which should have the higher one, from others.

AUROC: probability that an in-distribution input has the higher confidence than another one, ties counting half.
AUPR in, out: average precision with the in-distribution or the other inputs (and the negative confidence) as positives.
TNR at 95 % TPR: share of the others below the threshold that accepts 95 % of the in-distribution inputs.
Detection accuracy: max over thresholds of (TPR + TNR) / 2.

With N in-distribution inputs, TNR counts the others that lie below the one of these at rank k, counted from the
lowest, with 1 - k/N closest to .95: as in the authors' code, which also lets the others lose ties.

Sources: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
Networks, ICLR 2017, arXiv 1610.02136; Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples
and Adversarial Attacks, NeurIPS 2018, arXiv 1807.03888, section 3.1. Their code integrates precision over recall by the
trapezoidal rule, and average precision by steps; they differ by less than one over the number of inputs, if no large
part of them is tied.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_roc

METRICS = ("auroc", "tnr95", "aupr_in", "aupr_out", "detection_accuracy")


def ranks(confidence: Tensor) -> Tensor:
    """Map values into [0, 1] in the same order and with the same ties: torchmetrics takes others for logits."""
    position = torch.unique(confidence, return_inverse=True)[1]
    return position.double() / position.max().clamp(min=1)


def true_negative_rate(in_distribution: Tensor, other: Tensor, true_positive_rate: float = 0.95) -> Tensor:
    """Compute the true negative rate at a true positive rate.

    Args:
        in_distribution: `[N]`, confidence of the in-distribution inputs.
        other: `[M]`, confidence of the other inputs.
        true_positive_rate: in (0, 1].

    Returns:
        `[]`, float64; 0 if there are so few in-distribution inputs that the closest TPR is 1.
    """
    N = len(in_distribution)
    distance = (1 - torch.arange(N + 1, dtype=torch.float64) / N - true_positive_rate).abs()
    k = int(distance.round(decimals=12).argmin())  # of two that are equally close, not the one that rounding prefers
    if k == 0:
        return torch.zeros((), dtype=torch.float64)
    threshold = in_distribution.kthvalue(k).values
    return (other < threshold).double().mean().cpu()


def detection_metrics(in_distribution: Tensor, other: Tensor) -> dict[str, float]:
    """Compute all of `METRICS`.

    Args:
        in_distribution: `[N]`, confidence of the in-distribution inputs, without NaN.
        other: `[M]`, confidence of the other inputs, without NaN.

    Raises:
        ValueError: if one of them is empty or has a NaN.
    """
    for name, value in (("in-distribution", in_distribution), ("other", other)):
        if len(value) == 0 or bool(value.isnan().any()):
            raise ValueError(f"the confidence of the {name} inputs {'is NaN' if len(value) else 'has no entry'}")
    confidence = ranks(torch.cat([in_distribution, other]).cpu())
    target = torch.cat([torch.ones(len(in_distribution)), torch.zeros(len(other))]).long()
    false_positive, true_positive, _ = binary_roc(confidence, target)
    values = {
        "auroc": binary_auroc(confidence, target),
        "tnr95": true_negative_rate(in_distribution, other),
        "aupr_in": binary_average_precision(confidence, target),
        "aupr_out": binary_average_precision(1 - confidence, 1 - target),
        "detection_accuracy": (0.5 * (true_positive + 1 - false_positive)).max(),
    }
    return {name: min(float(value), 1.0) for name, value in values.items()}  # sums in float32 may exceed 1


@dataclass
class DetectionResult:
    """Confidences of detectors at one set of inputs that is to be found among in-distribution ones.

    Args:
        target: name of the set.
        index: `[N + M]`, int64: position of each input in its own set.
        is_target: `[N + M]`, bool: whether it is to be found.
        is_validation: `[N + M]`, bool: whether something may have been tuned on it; metrics leave it out.
        confidence: `[N + M]` of each method.
        epsilon: size of the input pre-processing that was chosen, of each method that has one; in pixel units.
        num_neighbours: number of neighbours that was chosen, of each method that has one.
    """

    target: str
    index: Tensor
    is_target: Tensor
    is_validation: Tensor
    confidence: dict[str, Tensor] = field(default_factory=dict)
    epsilon: dict[str, float] = field(default_factory=dict)
    num_neighbours: dict[str, int] = field(default_factory=dict)

    def parts(self, method: str) -> tuple[Tensor, Tensor]:
        """Take the confidence of the in-distribution and of the other inputs that nothing was tuned on."""
        confidence, measured = self.confidence[method], ~self.is_validation
        return confidence[measured & ~self.is_target], confidence[measured & self.is_target]

    def metrics(self, method: str) -> dict[str, float]:
        """Compute the metrics of one method on them."""
        return detection_metrics(*self.parts(method))


def metrics_by_name(
    detections: Sequence[DetectionResult], score: str, scores: Sequence[str], num_averaged: int
) -> dict[str, float]:
    """Name the metrics of each set, and the means of one score's over the first sets.

    Args:
        detections: one for each set.
        score: the score of the metrics without a score's name.
        scores: scores whose AUROC has a name, in whatever set.
        num_averaged: number of sets that means are over.
    """
    named: dict[str, float] = {}
    means: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for place, detection in enumerate(detections):
        for method in detection.confidence:
            values = detection.metrics(method)
            if method in scores:
                named[f"auroc_{method}_{detection.target}"] = values["auroc"]
            if method == score:
                named |= {f"{metric}_{detection.target}": value for metric, value in values.items()}
                for metric, value in values.items() if place < num_averaged else ():
                    means[metric].append(value)
    return named | {metric: sum(of_sets) / len(of_sets) for metric, of_sets in means.items() if of_sets}
