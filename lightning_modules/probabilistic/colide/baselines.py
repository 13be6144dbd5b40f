"""NOTEARS and GOLEM, two baselines for CoLiDE.

Both methods penalise cycles with h(W) = tr exp(W o W) - d, which is zero if W is acyclic. The residual variances v are
defined in the package docstring, and the diagonal of W is zero. The two methods solve

    NOTEARS:  min 1/2 sum_j v_j + lambda ||W||_1  subject to h(W) = 0, by the augmented Lagrangian,
    GOLEM-EV: min d/2 log sum_j v_j - log |det(I - W)| + lambda ||W||_1 + c h(W), by Adam.

The settings are those in the published code of each method.

Sources: Zheng, Aragam, Ravikumar and Xing, DAGs with NO TEARS: Continuous Optimization for Structure Learning, NeurIPS
2018, arXiv 1803.01422; Ng, Ghassami and Zhang, On the Role of Sparsity and DAG Constraints for Learning Linear DAGs,
NeurIPS 2020, arXiv 2006.10201.
"""

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from datamodules.arguments import at_least, positive
from lightning_modules.probabilistic.colide.score import Array, noise_scale, residual_covariances, score

TOLERANCE = 1e-8
"""NOTEARS considers W acyclic if h(W) is at most this value."""
PROGRESS, GROWTH, LARGEST_RHO = 0.25, 10.0, 1e16
"""If h is above a quarter of its last value, NOTEARS multiplies rho by ten, up to 1e16, and repeats the iteration."""
ACYCLICITY_WEIGHT = 5.0
"""Weight c of the cycle penalty h in GOLEM."""
BETAS, EPS = (0.9, 0.999), 1e-8
"""Betas and epsilon of Adam in GOLEM."""
MULTIPLIERS = 100
"""Maximum number of updates of the Lagrange multiplier in NOTEARS."""


def exponential_acyclicity(weight: Array) -> tuple[float, Array]:
    """Compute h(W) = tr exp(W o W) - d and its gradient, `[d, d]`, for weights W, `[d, d]`."""
    exponential = torch.matrix_exp(torch.from_numpy(weight * weight)).numpy()
    return float(np.trace(exponential)) - len(weight), 2 * weight * exponential.T


class NOTEARS:
    """Least squares subject to acyclicity, solved by the augmented Lagrangian method (NOTEARS).

    Args:
        penalty: weight lambda of the L1 penalty on W.
    """

    def __init__(self, penalty: float = 0.1) -> None:
        at_least(0, penalty=penalty)
        self.penalty = penalty
        self.parts: Array | None = None  # positive part and negative part of W, `[2, d, d]`
        self.rho, self.alpha, self.h = 1.0, 0.0, float("inf")
        self.multipliers = 0
        self.finished = False

    @property
    def progress(self) -> str:
        """A description of the current iteration, for a warning."""
        return f"update {self.multipliers + 1} of at most {MULTIPLIERS} of NOTEARS"

    def observe(self, cov: Array) -> None:
        """Set the covariance X^T X / n, `[d, d]`; call this method before the first iteration."""
        self.cov, self.sigma = cov, np.ones(len(cov))
        if self.parts is None:
            self.parts = np.zeros((2, *cov.shape))

    @property
    def weight(self) -> Array:
        """The weight matrix W, `[d, d]`."""
        assert self.parts is not None
        return self.parts[0] - self.parts[1]

    def value(self) -> float:
        """Compute the least-squares objective plus the L1 penalty, without the term for the acyclicity constraint."""
        weight = self.weight
        fit = score(residual_covariances(weight, self.cov, np.eye(len(weight)))[1], self.sigma, "ls")
        return fit + self.penalty * float(np.abs(weight).sum())

    def acyclicity(self) -> float:
        """Compute h(W)."""
        return exponential_acyclicity(self.weight)[0]

    def lagrangian(self, parts: Array) -> tuple[float, Array]:
        """Compute the augmented Lagrangian and its gradient from the flattened positive and negative parts of W."""
        size = len(self.cov)
        positive_part, negative_part = parts.reshape(2, size, size)
        weight = positive_part - negative_part
        product, variance = residual_covariances(weight, self.cov, np.eye(size))
        h, slope = exponential_acyclicity(weight)
        value = score(variance, self.sigma, "ls") + (self.rho / 2 * h + self.alpha) * h + self.penalty * parts.sum()
        smooth = (self.rho * h + self.alpha) * slope - product
        return float(value), np.concatenate([smooth + self.penalty, self.penalty - smooth], axis=None)

    def iterate(self) -> None:
        """Minimise the augmented Lagrangian, then update rho or the multiplier.

        Do nothing if the run is finished.
        """
        if self.finished:
            return
        assert self.parts is not None
        size = len(self.cov)
        bounds = [(0, 0 if i == j else None) for _ in range(2) for i in range(size) for j in range(size)]
        found = minimize(self.lagrangian, self.parts.ravel(), jac=True, method="L-BFGS-B", bounds=bounds)
        parts = found.x.reshape(2, size, size)
        h, _ = exponential_acyclicity(parts[0] - parts[1])
        if h > PROGRESS * self.h:
            self.rho *= GROWTH
            if self.rho < LARGEST_RHO:
                return
        self.parts, self.h = parts, h
        self.alpha += self.rho * h
        self.multipliers += 1
        self.finished = h <= TOLERANCE or self.rho >= LARGEST_RHO or self.multipliers == MULTIPLIERS

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next iteration needs; it consists of numbers and a tensor."""
        assert self.parts is not None
        numbers = {name: getattr(self, name) for name in ("rho", "alpha", "h", "multipliers", "finished")}
        return numbers | {"parts": torch.from_numpy(self.parts.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        vars(self).update(state | {"parts": state["parts"].cpu().numpy().copy()})


class GOLEM:
    """Maximum likelihood with equal noise variances, and with soft penalties on edges and cycles (GOLEM-EV).

    Args:
        penalty: weight lambda of the L1 penalty on W.
        learning_rate: learning rate of Adam.
        iterations: number of iterations.
    """

    def __init__(
        self,
        penalty: float = 0.02,
        learning_rate: float = 1e-3,
        iterations: int = 100_000,
    ) -> None:
        at_least(0, penalty=penalty)
        at_least(1, iterations=iterations)
        positive(learning_rate=learning_rate)
        self.penalty = penalty
        self.learning_rate = learning_rate
        self.iterations = iterations
        self.iteration = 0
        # W and the state of Adam; each is `[d, d]` after the first call of `observe`
        empty: Array = np.zeros((0, 0))
        self.weight, self.mean, self.square = empty, empty, empty

    @property
    def finished(self) -> bool:
        """Whether training has reached the last iteration."""
        return self.iteration == self.iterations

    @property
    def progress(self) -> str:
        """A description of the current iteration, for a warning."""
        return f"iteration {self.iteration} of {self.iterations} of GOLEM"

    def observe(self, cov: Array) -> None:
        """Set the covariance X^T X / n, `[d, d]`; call this method before the first iteration."""
        self.cov, self.identity = cov, np.eye(len(cov))
        if not self.weight.size:
            self.weight, self.mean, self.square = (np.zeros(cov.shape) for _ in range(3))

    @property
    def sigma(self) -> Array:
        """The noise scales, `[d]`, that minimise the score for the current W."""
        return noise_scale(residual_covariances(self.weight, self.cov, self.identity)[1], "ev")

    def value(self) -> float:
        """Compute the objective."""
        residual = self.identity - self.weight
        variance = residual_covariances(self.weight, self.cov, self.identity)[1].sum()
        likelihood = len(residual) / 2 * np.log(variance) - np.linalg.slogdet(residual).logabsdet
        return float(likelihood + self.penalty * np.abs(self.weight).sum()) + ACYCLICITY_WEIGHT * self.acyclicity()

    def acyclicity(self) -> float:
        """Compute h(W)."""
        return exponential_acyclicity(self.weight)[0]

    def gradient(self) -> Array:
        """Compute the gradient of the objective, `[d, d]`.

        The diagonal is set to zero, and sign(0) is 0.
        """
        product, variance = residual_covariances(self.weight, self.cov, self.identity)
        slope = ACYCLICITY_WEIGHT * exponential_acyclicity(self.weight)[1]
        slope += self.penalty * np.sign(self.weight) - product * (len(variance) / variance.sum())
        slope += np.linalg.inv(self.identity - self.weight).T
        np.fill_diagonal(slope, 0)
        return slope

    def iterate(self) -> None:
        """Run one Adam iteration, or do nothing if the run is finished."""
        if self.finished:
            return
        self.iteration += 1
        slope = self.gradient()
        self.mean = BETAS[0] * self.mean + (1 - BETAS[0]) * slope
        self.square = BETAS[1] * self.square + (1 - BETAS[1]) * slope * slope
        first, second = (1 - beta**self.iteration for beta in BETAS)
        self.weight = self.weight - self.learning_rate * self.mean / first / (np.sqrt(self.square / second) + EPS)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next iteration needs; it consists of a number and tensors."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("weight", "mean", "square")}
        return arrays | {"iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        arrays = {name: state[name].cpu().numpy().copy() for name in ("weight", "mean", "square")}
        vars(self).update(arrays | {"iteration": state["iteration"]})
