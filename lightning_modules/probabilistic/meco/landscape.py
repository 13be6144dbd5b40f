"""Energies with one parameter, and the curvature of training objectives at the true parameter.

The data are normal with an unknown mean.

Let the data be N(R, 1), let the noise be N(0, 1), and let f = theta x - x^2 / 2. Up to a constant, the
maximum-likelihood objective is then (theta - R)^2 / 2, whose curvature is 1 for every R. The noise-contrastive
objective is a function of (theta, c), where c replaces -log Z, and is almost flat for large R. Let h = f + c - log q,
and let s' be the derivative of the sigmoid. The Hessian of the noise-contrastive objective at the true parameters is E
[s'(h) (x, 1) (x, 1)^T], over data and noise.
"""

import math

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import quad
from torch import Tensor, nn

from lightning_modules.interfaces import Table


class LocationEnergy(nn.Module):
    """The energy f(x) = -(x - theta)^2 / 2, where theta is initialised to 0.

    The normalising constant of this energy does not depend on theta.
    """

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return -(x - self.theta).square() / 2


class ExponentialEnergy(LocationEnergy):
    """The energy f(x) = theta x - x^2 / 2, which defines an exponential family.

    The normalising constant of this energy is proportional to exp(theta^2 / 2).
    """

    @property
    def tables(self) -> dict[str, Table]:
        """Tabulate the smallest curvature at the true parameters over means R, for noise contrast and likelihood."""
        means = [1, 2, 3, 4, 6, 8, 10]
        least = [contrast_curvature(mean)[0] for mean in means] + [1.0] * len(means)
        objectives = ["noise contrast"] * len(means) + ["likelihood"] * len(means)
        columns = {"mean": means * 2, "least_curvature": least, "objective": objectives}
        return {"curvature": Table(columns, logarithmic=("least_curvature",))}

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * x - x.square() / 2


def likelihood_objective(theta: float, truth: float, nodes: int = 200) -> float:
    """Compute F(theta) - F(R) for `ExponentialEnergy` and noise N(0, 1) by quadrature; R is the argument `truth`."""
    points, weights = hermegauss(nodes)
    weights = weights / weights.sum()

    def objective(value: float) -> float:
        log_ratio = value * points + math.log(2 * math.pi) / 2  # f - log q
        return -value * truth + float(np.log(weights @ np.exp(log_ratio)))

    return objective(theta) - objective(truth)


def contrast_curvature(truth: float) -> tuple[float, float]:
    """Compute the smallest and the largest eigenvalue of the noise-contrastive Hessian at the true parameters.

    The integrals are computed by quadrature.
    """

    def integral(power: int) -> float:
        def integrand(x: float) -> float:
            log_data, log_noise = -((x - truth) ** 2) / 2, -(x**2) / 2
            product = math.exp(log_data + log_noise - np.logaddexp(log_data, log_noise))  # p q / (p + q)
            return x**power * product / math.sqrt(2 * math.pi)

        middle = truth / 2
        return quad(integrand, middle - 12, middle + 12, points=[middle], epsabs=0, epsrel=1e-12, limit=500)[0]

    low, high = np.linalg.eigvalsh([[integral(2), integral(1)], [integral(1), integral(0)]])
    return float(low), float(high)
