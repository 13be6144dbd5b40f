"""A weighted sum of the confidence of layers, by logistic regression on validation data.

    log p(out | M) - log p(in | M) = w^T M + b,   confidence = -(w^T M + b)

The regression is scikit-learn's LogisticRegressionCV with its defaults, as in the authors' code: an L2 penalty chosen
among ten by the accuracy in five stratified folds. Only the solver is another, Newton's method, which reaches the same
minimum in fewer steps, as M is not scaled.

The size epsilon of the input pre-processing is tuned too: for each, the regression is fitted on one half of the
validation data, and the size is taken that gives the better confidence on the other half, by TNR at 95 % TPR for
out-of-distribution inputs, and by AUROC for adversarial ones; of equal ones the first.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks,
NeurIPS 2018, arXiv 1807.03888, section 2.2 and their published code.
"""

import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_modules.metrics.detection import detection_metrics, true_negative_rate

FEWEST = 2
"""Inputs of either kind that weights can be fitted to, or epsilon chosen by."""


class Ensemble(NamedTuple):
    """Weights of the layers, for one of the sizes of the pre-processing."""

    weight: Tensor
    """w, `[L]`."""
    bias: Tensor
    """b, `[]`."""
    column: int
    """Position of epsilon."""

    def confidence(self, scores: Tensor) -> Tensor:
        """`[N]`, of M `[N, L, epsilons]`."""
        return -(scores[:, :, self.column] @ self.weight + self.bias)


def logistic_regression(in_distribution: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Fit w `[L]` and b to M `[n, L]` and `[m, L]`, at least two each."""
    from sklearn.linear_model import LogisticRegressionCV

    scores = torch.cat([in_distribution, other]).cpu()
    target = torch.cat([torch.zeros(len(in_distribution)), torch.ones(len(other))])
    folds = min(5, len(in_distribution), len(other))
    with warnings.catch_warnings():
        # Of scikit-learn's versions, which rename options that are left at their defaults; and of folds in which the
        # two kinds lie so far apart that the least penalties make no difference.
        warnings.simplefilter("ignore")
        regression = LogisticRegressionCV(cv=folds, scoring="accuracy", solver="newton-cholesky")
        fitted = regression.fit(scores.numpy(), target.numpy())
    weight = torch.as_tensor(fitted.coef_[0], dtype=scores.dtype)
    return weight, torch.as_tensor(fitted.intercept_[0], dtype=scores.dtype)


class Sample(NamedTuple):
    """M of two kinds of inputs, on the CPU."""

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
        fit: scores that the weights are fitted to.
        choose: scores that epsilon is chosen on.
        choose_by: metric that epsilon is chosen by.

    Raises:
        ValueError: if there are fewer than `FEWEST` inputs of either kind.
    """
    if min(fit.fewest, choose.fewest) < FEWEST:
        raise ValueError(
            f"an ensemble needs at least {FEWEST} inputs of either kind to fit and to choose by, got "
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
    """Find the column of `[n, S]` and `[m, S]` with the greatest TNR at 95 % TPR, the first of equal ones."""
    columns = zip(in_distribution.unbind(dim=1), other.unbind(dim=1), strict=True)
    rates = [float(true_negative_rate(*parts)) for parts in columns]
    return max(range(len(rates)), key=rates.__getitem__)
