"""Weights of training samples as the upper variable, logistic models with temperatures as the lower ones.

    g_i(x, w) = (1/n) sum_j sigmoid(x_j) l(y_j <w, z_j> / sigma_i) + lambda / 2 |w|^2,    l(u) = log(1 + exp(-u)),
    f_i(w) = mean of l(y <w, z> / sigma_i) over trusted samples,

with z = (1, features). Of a batch of B samples the mean stands for that of all n.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.optimization.mbbo.blocks import BlockProblem


class WeightedSamples(NamedTuple):
    """Samples of each of k blocks."""

    z: Tensor
    """`[k, B, D]`, with 1 first."""
    a: Tensor
    """`[k, B]`: y / sigma_i, of labels -1 and 1."""
    place: Tensor
    """`[k, B]`: positions among the samples that have weights."""


class Batch(NamedTuple):
    """Samples of an iteration: those with weights, and trusted ones."""

    training: WeightedSamples
    trusted: WeightedSamples


def with_one(features: Tensor) -> Tensor:
    """Put a column of ones in front of features `[N, D - 1]`."""
    return torch.cat([features.new_ones(len(features), 1), features], dim=1)


def wrong(samples: WeightedSamples, w: Tensor) -> Tensor:
    """Compute r = sigmoid(-a <w, z>), `[k, B]`: the probability that a model `[k, D]` gives to the other label."""
    return torch.sigmoid(-samples.a * (samples.z @ w[..., None])[..., 0])


class Reweighting(BlockProblem):
    """Derivatives in closed form.

    Args:
        ridge: lambda.
    """

    def __init__(self, ridge: float) -> None:
        self.ridge = ridge

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        samples = batch.training
        pull = torch.sigmoid(x[samples.place]) * wrong(samples, y) * samples.a
        return self.ridge * y - (pull[:, None] @ samples.z)[:, 0] / samples.a.shape[1]

    def _curvature(self, x: Tensor, y: Tensor, samples: WeightedSamples) -> Tensor:
        r = wrong(samples, y)
        return torch.sigmoid(x[samples.place]) * samples.a**2 * r * (1 - r) / samples.a.shape[1]

    def lower_hessian(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        z, curvature = batch.training.z, self._curvature(x, y, batch.training)
        return z.mT @ (curvature[..., None] * z) + self.ridge * torch.eye(z.shape[2], dtype=z.dtype, device=z.device)

    def hessian_product(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        z, curvature = batch.training.z, self._curvature(x, y, batch.training)
        along = (z @ v[..., None])[..., 0]
        return ((curvature * along)[:, None] @ z)[:, 0] + self.ridge * v

    def upper_gradient(self, y: Tensor, batch: Batch) -> Tensor:
        samples = batch.trusted
        pull = wrong(samples, y) * samples.a
        return -(pull[:, None] @ samples.z)[:, 0] / samples.a.shape[1]

    def cross_product(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        samples = batch.training
        weight = torch.sigmoid(x[samples.place])
        along = (samples.z @ v[..., None])[..., 0]
        entries = -weight * (1 - weight) * wrong(samples, y) * samples.a * along / samples.a.shape[1]
        return torch.zeros_like(x).index_add_(0, samples.place.flatten(), entries.flatten())

    def cross_derivative(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        samples = batch.training
        weight = torch.sigmoid(x[samples.place])
        entries = -weight * (1 - weight) * wrong(samples, y) * samples.a / samples.a.shape[1]
        rows = torch.arange(len(y), device=y.device)[:, None].expand_as(samples.place)
        derivative = y.new_zeros(len(y), len(x), y.shape[1])
        return derivative.index_put_((rows, samples.place), entries[..., None] * samples.z, accumulate=True)


def objective(z: Tensor, target: Tensor, w: Tensor, temperature: Tensor) -> Tensor:
    """Average the logistic loss of each of k models over N samples, `[k]`.

    Args:
        z: `[N, D]`, with 1 first.
        target: `[N]`, of -1 and 1.
        w: models, `[k, D]`.
        temperature: sigma, `[k]`.
    """
    return F.softplus(-target * (w @ z.T) / temperature[:, None]).mean(1)
