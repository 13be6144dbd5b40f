"""Weighted sum of the scores of all layers.

A logistic regression on validation data gives the weights.

    log p(out | M) - log p(in | M) = w^T M + b,   confidence = -(w^T M + b)

As in the code of the authors, the regression is LogisticRegressionCV of scikit-learn with default settings. It chooses
an L2 penalty from ten values by accuracy in five stratified folds. Only the solver differs. M is not scaled, and the
Newton method then reaches the same minimum in fewer steps.

The step size epsilon of the input pre-processing is also tuned. For each epsilon, the regression is fitted on one half
of the validation data. The chosen epsilon has the best result on the other half: the best TNR at 95 % TPR for
out-of-distribution inputs, and the best AUROC for adversarial inputs. In a tie, the first epsilon is chosen.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks,
NeurIPS 2018, arXiv 1807.03888, section 2.2 and the published code.
"""

import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_modules.metrics.detection import detection_metrics, true_negative_rate

FEWEST = 2
"""Minimum number of inputs of each kind, to fit weights or choose epsilon."""


class Ensemble(NamedTuple):
    """Weights of the layers, and the selected epsilon of the pre-processing."""

    weight: Tensor
    """w, `[L]`."""
    bias: Tensor
    """b, `[]`."""
    column: int
    """Index of epsilon."""

    def confidence(self, scores: Tensor) -> Tensor:
        """Compute the confidence `[N]` from M `[N, L, epsilons]`."""
        return -(scores[:, :, self.column] @ self.weight + self.bias)


def logistic_regression(in_distribution: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Fit w `[L]` and b to scores M of in-distribution inputs `[n, L]` and other inputs `[m, L]`; n, m >= 2."""
    from sklearn.linear_model import LogisticRegressionCV

    scores = torch.cat([in_distribution, other]).cpu()
    target = torch.cat([torch.zeros(len(in_distribution)), torch.ones(len(other))])
    folds = min(5, len(in_distribution), len(other))
    with warnings.catch_warnings():
        # Warnings about options that scikit-learn renames between versions, although they are left at their defaults;
        # and about folds in which the classes are so well separated that the smallest penalties make no difference.
        warnings.simplefilter("ignore")
        regression = LogisticRegressionCV(cv=folds, scoring="accuracy", solver="newton-cholesky")
        fitted = regression.fit(scores.numpy(), target.numpy())
    weight = torch.as_tensor(fitted.coef_[0], dtype=scores.dtype)
    return weight, torch.as_tensor(fitted.intercept_[0], dtype=scores.dtype)


class Sample(NamedTuple):
    """Scores M of in-distribution and other inputs, on the CPU."""

    in_distribution: Tensor
    """`[n, L, epsilons]`."""
    other: Tensor
    """`[m, L, epsilons]`."""

    @property
    def fewest(self) -> int:
        return min(len(self.in_distribution), len(self.other))


def fit_ensemble(fit: Sample, choose: Sample, choose_by: Literal["tnr95", "auroc"]) -> Ensemble:
    """Tune weights and epsilon.

    Args:
        fit: scores for fitting the weights.
        choose: scores to choose epsilon on.
        choose_by: metric for choosing epsilon.

    Raises:
        ValueError: if there are fewer than `FEWEST` in-distribution or other inputs.
    """
    if min(fit.fewest, choose.fewest) < FEWEST:
        raise ValueError(
            f"an ensemble needs at least {FEWEST} inputs of each kind to fit weights and to choose epsilon, got "
            f"{len(fit.in_distribution)} and {len(fit.other)}, {len(choose.in_distribution)} and {len(choose.other)}"
        )
    best: tuple[float, Ensemble] | None = None
    for column in range(fit.in_distribution.shape[2]):
        ensemble = Ensemble(*logistic_regression(fit.in_distribution[:, :, column], fit.other[:, :, column]), column)
        parts = ensemble.confidence(choose.in_distribution), ensemble.confidence(choose.other)
        value = float(true_negative_rate(*parts)) if choose_by == "tnr95" else detection_metrics(*parts)["auroc"]
        if best is None or value > best[0]:
            best = value, ensemble
    assert best is not None
    return best[1]


def best_column(in_distribution: Tensor, other: Tensor) -> int:
    """Return the column of `[n, S]` and `[m, S]` with the highest TNR at 95 % TPR.

    In a tie, return the first column.
    """
    columns = zip(in_distribution.unbind(dim=1), other.unbind(dim=1), strict=True)
    rates = [float(true_negative_rate(*parts)) for parts in columns]
    return max(range(len(rates)), key=rates.__getitem__)
