"""Weighted sum of the scores of all layers, with weights from logistic regression.

The regression is fitted on validation data:

    log p(out | M) - log p(in | M) = w^T M + b,   confidence = -(w^T M + b)

As in the authors' code, the regression is scikit-learn's `LogisticRegressionCV` with default settings. It chooses one
of ten L2 penalties by the accuracy in stratified five-fold cross-validation. Only the solver differs: because M is not
scaled, Newton's method reaches the same minimum in fewer steps.

The step size epsilon of the input pre-processing is also tuned. For each epsilon, the regression is fitted on one half
of the validation data and evaluated on the other half. The epsilon with the best result is chosen: the highest TNR at
95 % TPR for out-of-distribution inputs, or the highest AUROC for adversarial inputs. If several values of epsilon give
the same result, the first of them is chosen.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks,
NeurIPS 2018, arXiv 1807.03888, section 2.2 and the published code.
"""

import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_modules.metrics.detection import detection_metrics, true_negative_rate

FEWEST = 2
"""Minimum number of inputs of each kind that are needed to fit weights or to choose epsilon."""


class Ensemble(NamedTuple):
    """The weights of the layers, and the epsilon that was selected for the pre-processing."""

    weight: Tensor
    """Weights w, `[L]`."""
    bias: Tensor
    """b, `[]`."""
    column: int
    """Index of the selected epsilon."""

    def confidence(self, scores: Tensor) -> Tensor:
        """Compute the confidence `[N]` from the scores M, `[N, L, epsilons]`."""
        return -(scores[:, :, self.column] @ self.weight + self.bias)


def logistic_regression(in_distribution: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Fit w, `[L]`, and b to the scores of in-distribution inputs, `[n, L]`, and of other inputs, `[m, L]`."""
    from sklearn.linear_model import LogisticRegressionCV

    scores = torch.cat([in_distribution, other]).cpu()
    target = torch.cat([torch.zeros(len(in_distribution)), torch.ones(len(other))])
    folds = min(5, len(in_distribution), len(other))
    with warnings.catch_warnings():
        # Ignore two warnings. One concerns options that scikit-learn renames between versions; they have default values
        # here. The other concerns folds whose classes are so well separated that the smallest penalties have no effect.
        warnings.simplefilter("ignore")
        regression = LogisticRegressionCV(cv=folds, scoring="accuracy", solver="newton-cholesky")
        fitted = regression.fit(scores.numpy(), target.numpy())
    weight = torch.as_tensor(fitted.coef_[0], dtype=scores.dtype)
    return weight, torch.as_tensor(fitted.intercept_[0], dtype=scores.dtype)


class Sample(NamedTuple):
    """Scores M of in-distribution inputs and of other inputs, on the CPU."""

    in_distribution: Tensor
    """`[n, L, epsilons]`."""
    other: Tensor
    """`[m, L, epsilons]`."""

    @property
    def fewest(self) -> int:
        return min(len(self.in_distribution), len(self.other))


def fit_ensemble(fit: Sample, choose: Sample, choose_by: Literal["tnr95", "auroc"]) -> Ensemble:
    """Fit the weights for each epsilon, and choose the best epsilon.

    Args:
        fit: scores on which the weights are fitted.
        choose: scores on which epsilon is chosen.
        choose_by: metric by which epsilon is chosen.

    Raises:
        ValueError: if `fit` or `choose` has fewer than `FEWEST` in-distribution inputs or other inputs.
    """
    if min(fit.fewest, choose.fewest) < FEWEST:
        raise ValueError(
            f"an ensemble needs at least {FEWEST} inputs of each kind: got {len(fit.in_distribution)} and "
            f"{len(fit.other)} to fit weights, {len(choose.in_distribution)} and {len(choose.other)} to choose epsilon"
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
    """Return the index of the score column that has the highest TNR at 95 % TPR.

    The scores are `[n, S]` for in-distribution inputs, and `[m, S]` for other inputs. If several columns have the
    highest TNR, the index of the first of them is returned.
    """
    columns = zip(in_distribution.unbind(dim=1), other.unbind(dim=1), strict=True)
    rates = [float(true_negative_rate(*parts)) for parts in columns]
    return max(range(len(rates)), key=rates.__getitem__)
