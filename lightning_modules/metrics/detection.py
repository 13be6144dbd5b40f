"""Metrics of out-of-distribution detection by a confidence score, which should be higher for in-distribution inputs.

AUROC: probability that an in-distribution input has a higher confidence than an out-of-distribution input; ties count
half. AUPR in: average precision with the in-distribution inputs as positives. AUPR out: average precision with the
out-of-distribution inputs as positives and the negative confidence as the score. TNR at 95 % TPR: fraction of the
out-of-distribution inputs with a confidence below the threshold that accepts 95 % of the in-distribution inputs.
Detection accuracy: max over thresholds of (TPR + TNR) / 2.

The TNR threshold is the k-th lowest of N in-distribution confidences, where k is chosen such that 1 - k/N is closest to
.95. As in the authors' code, out-of-distribution inputs whose confidence equals the threshold do not count as below it.

Sources: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
Networks, ICLR 2017, arXiv 1610.02136; Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples
and Adversarial Attacks, NeurIPS 2018, arXiv 1807.03888, section 3.1. The authors' code integrates precision over recall
by the trapezoidal rule. Average precision, which is used here, sums steps instead. The difference is below 1 / (number
of inputs), unless many inputs are tied.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_roc

METRICS = ("auroc", "tnr95", "aupr_in", "aupr_out", "detection_accuracy")


def ranks(confidence: Tensor) -> Tensor:
    """Map values to ranks in [0, 1], with the same order and ties. Torchmetrics treats other values as logits."""
    position = torch.unique(confidence, return_inverse=True)[1]
    return position.double() / position.max().clamp(min=1)


def true_negative_rate(in_distribution: Tensor, other: Tensor, true_positive_rate: float = 0.95) -> Tensor:
    """Compute the true negative rate at a given true positive rate.

    Args:
        in_distribution: `[N]`, confidence of the in-distribution inputs.
        other: `[M]`, confidence of the inputs to detect.
        true_positive_rate: true positive rate that sets the threshold, in (0, 1].

    Returns:
        `[]`, float64. The rate is 0 if there are so few in-distribution inputs that the closest possible TPR is 1.
    """
    N = len(in_distribution)
    distance = (1 - torch.arange(N + 1, dtype=torch.float64) / N - true_positive_rate).abs()
    k = int(distance.round(decimals=12).argmin())  # rounding makes the choice between ties stable
    if k == 0:
        return torch.zeros((), dtype=torch.float64)
    threshold = in_distribution.kthvalue(k).values
    return (other < threshold).double().mean().cpu()


def detection_metrics(in_distribution: Tensor, other: Tensor) -> dict[str, float]:
    """Compute all metrics in `METRICS`.

    Args:
        in_distribution: `[N]`, confidence of the in-distribution inputs, without NaN.
        other: `[M]`, confidence of the inputs to detect, without NaN.

    Raises:
        ValueError: if one of the tensors is empty or contains NaN.
    """
    for name, value in (("in-distribution", in_distribution), ("other", other)):
        if len(value) == 0 or bool(value.isnan().any()):
            raise ValueError(f"the confidence of the {name} inputs {'is NaN' if len(value) else 'is empty'}")
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
    return {name: min(float(value), 1.0) for name, value in values.items()}  # float32 sums may exceed 1


@dataclass
class DetectionResult:
    """Confidences of detectors on in-distribution inputs and on one dataset of inputs to detect.

    Args:
        target: name of the dataset to detect.
        index: position of each input in its own dataset, `[N + M]`, int64.
        is_target: whether an input should be detected, `[N + M]`, bool.
        is_validation: whether an input is left out of metrics because it may have been used for tuning, `[N + M]`,
            bool.
        confidence: for each method, the confidence of each input, `[N + M]`.
        epsilon: for each method that perturbs inputs before scoring them, the chosen size of the perturbation, in pixel
            units.
        num_neighbours: for each method that uses neighbours, the chosen number of neighbours.
    """

    target: str
    index: Tensor
    is_target: Tensor
    is_validation: Tensor
    confidence: dict[str, Tensor] = field(default_factory=dict)
    epsilon: dict[str, float] = field(default_factory=dict)
    num_neighbours: dict[str, int] = field(default_factory=dict)

    def parts(self, method: str) -> tuple[Tensor, Tensor]:
        """Return the confidences of in-distribution inputs and of inputs to detect; exclude inputs used for tuning."""
        confidence, measured = self.confidence[method], ~self.is_validation
        return confidence[measured & ~self.is_target], confidence[measured & self.is_target]

    def metrics(self, method: str) -> dict[str, float]:
        """Compute the metrics of one method; inputs used for tuning are excluded."""
        return detection_metrics(*self.parts(method))


def metrics_by_name(
    detections: Sequence[DetectionResult], score: str, scores: Sequence[str], num_averaged: int
) -> dict[str, float]:
    """Return the main score's metrics for each dataset, their means over the first datasets, and AUROCs of `scores`.

    Args:
        detections: results, one for each dataset.
        score: name of the main score; the names of its metrics do not contain it.
        scores: names of further scores. For each of them, the AUROC is returned for every dataset.
        num_averaged: number of datasets over which the means are computed; these are the first datasets.
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
