"""Fit a generative model to data on a curve or surface by maximum likelihood, after adding noise to the data.

The model is X = f(Z) + s eps, with a network f, a latent Z that has a known distribution P_Z, and Gaussian noise eps.
If the distribution of the data has no density, the likelihood of the model

    p_{f,s}(x) = integral of phi_s(x - f(z)) dP_Z(z),        phi_s the density of N(0, s^2 I_D)

is unbounded as s decreases, and contains little information about how the mass of the distribution is spread over the
curve or surface. The method therefore adds noise to each data point once, and fits f and s to the noisy points x~_i.
Generated points contain no noise:

    x~_i = x_i + t e_i,    e_i ~ N(0, I_D),        (f, s) = argmax sum_i log p_{f,s}(x~_i)  with s >= max(t, s_min).

The estimate is the distribution of f(Z). According to the theory, t should be of the order n^{-b / (2 (b + d))}, where
b is the smoothness of the true distribution and d is its intrinsic dimension. If the data already contain noise of this
order, no noise needs to be added.

The likelihood is computed from M latent points in one of three ways:

    quadrature    log mean_m phi_s(x - f(z_m)),  Z uniform on the unit cube, one z_m sampled in each of M equal cells

    monte_carlo   the same with M independent normal z_m, shared by all data points

    importance    log mean_m phi_s(x - f(z_m)) P_Z(z_m) / q(z_m | x),  Z normal, z_m from an encoder q: a lower bound

Only the introduction of the paper was available. The rate of t, its constants, and the sieve of networks in the theorem
are reconstructed from memory. Of the restrictions that define the sieve, only the size of the networks is implemented.
With `importance` and M = 1, the model is a variational autoencoder. Adding noise showed no benefit for the variational
autoencoder.

Source: Chae, Kim, Kim and Lin, A Likelihood Approach to Nonparametric Estimation of a Singular Distribution Using Deep
Generative Models, JMLR 24(77), 2023, arXiv 2105.04046. Importance weights: Burda, Grosse and Salakhutdinov, Importance
Weighted Autoencoders, ICLR 2016, arXiv 1509.00519.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.quasirandom import SobolEngine
from torch.utils.checkpoint import checkpoint

from datamodules.arguments import at_least, one_of, only_with, positive
from datamodules.batches import TableBatch
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.shared_batches import sample_rows, shared_rng
from lightning_modules.full_precision import in_full_precision
from lightning_modules.interfaces import Table, TrainingSamples, require_data
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.metrics.wasserstein import MOST_POINTS, sliced_wasserstein, wasserstein
from lightning_modules.optim.optimizers import adam, constant, trainable_parameters, with_schedule
from lightning_modules.optim.parameter_groups import scale_learning_rates
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_same, log_training

AT_ONCE = 2**20
"""Maximum number of pairs of a data point and a latent point that are in memory at once."""


def centre_distances(x: Tensor, centre: Tensor) -> Tensor:
    """Compute |x_i - c_m|^2, `[B, M]`, for points `[B, D]` and centres `[M, D]`."""
    return (x.square().sum(1)[:, None] + centre.square().sum(1) - 2 * x @ centre.T).clamp(min=0)


def _mixture(x: Tensor, centre: Tensor, log_std: Tensor) -> Tensor:
    exponent = -centre_distances(x, centre) / (2 * (2 * log_std).exp())
    dim = x.shape[1]
    return exponent.logsumexp(1) - math.log(len(centre)) - dim * log_std - dim / 2 * math.log(2 * math.pi)


def mixture_log_likelihood(x: Tensor, centre: Tensor, log_std: Tensor, at_once: int = AT_ONCE) -> Tensor:
    """Compute log mean_m phi_s(x - c_m), `[B]`, for a mixture of Gaussians with equal weights.

    If there are many pairs of a point and a centre, the points are processed in chunks, and the backward pass
    recomputes each chunk.

    Args:
        x: points, `[B, D]`.
        centre: centres c_m of the Gaussians, `[M, D]`.
        log_std: logarithm of the standard deviation s, a scalar.
        at_once: maximum number of pairs of a point and a centre that are in memory at once.
    """
    rows = max(1, at_once // len(centre))
    if len(x) <= rows:
        return _mixture(x, centre, log_std)
    parts = (checkpoint(_mixture, part, centre, log_std, use_reentrant=False) for part in x.split(rows))
    return torch.cat(list(parts))


def importance_log_likelihood(x: Tensor, mean: Tensor, latent: Tensor, posterior: Tensor, log_std: Tensor) -> Tensor:
    """Compute a lower bound on log p(x), `[B]`, from K encoder samples.

    The bound is log mean_k phi_s(x - f(z_k)) P_Z(z_k) / q(z_k | x).

    Args:
        x: points, `[B, D]`.
        mean: generated points f(z_k), `[B, K, D]`.
        latent: encoder samples z_k, `[B, K, d]`; their prior P_Z is standard normal.
        posterior: mean and log standard deviation of q(z | x), concatenated, `[B, 2 d]`.
        log_std: logarithm of the standard deviation s, a scalar.
    """
    centre, log_width = posterior[:, None].chunk(2, dim=-1)
    dim = x.shape[1]
    square = (x[:, None] - mean).square().sum(-1) / (2 * log_std).exp()
    likelihood = -square / 2 - dim * log_std - dim / 2 * math.log(2 * math.pi)
    prior_over_q = (-latent.square() / 2 + ((latent - centre) / log_width.exp()).square() / 2 + log_width).sum(-1)
    return (likelihood + prior_over_q).logsumexp(1) - math.log(mean.shape[1])


def cells_per_axis(points: int, dim: int) -> int:
    """Return the number k of cells along each axis; k is the integer for which k^d = M."""
    k = round(points ** (1 / dim))
    if k**dim != points:
        raise ValueError(f"points must be k^{dim} with a whole number k for {dim} latent dimensions, got {points}")
    return k


def stratified_points(uniform: Tensor, cells: int) -> Tensor:
    """Map uniform numbers `[k^d, d]` in [0, 1) to stratified points in the unit cube.

    Each of the k^d equal cells of the cube contains one point.
    """
    axis = torch.arange(cells, dtype=uniform.dtype, device=uniform.device)
    corner = torch.cartesian_prod(*[axis] * uniform.shape[1]).view_as(uniform)
    return (corner + uniform) / cells


def perturbation_rate(samples: int, smoothness: float, dim: int) -> float:
    """Compute the noise level n^{-b / (2 (b + d))} of the theory for n samples, smoothness b and dimension d."""
    return samples ** (-smoothness / (2 * (smoothness + dim)))


class SingularDensity(MethodModule):
    """Fit a generator to noisy data by maximum likelihood.

    Args:
        network: generator f that maps latents `[M, d]` to points `[M, D]`.
        latent_dim: number d of latent dimensions.
        points: number M of latent points; for `quadrature`, M must be the d-th power of an integer.
        likelihood: method that computes the likelihood, `quadrature`, `monte_carlo` or `importance`.
        encoder: network that maps points `[B, D]` to the mean and log standard deviation of their latents, `[B, 2 d]`;
            required for `importance`, and not accepted otherwise.
        perturbation: standard deviation t of the noise that is added to the data, in the units of the data; None means
            the theoretical value, n^{-b / (2 (b + d))}.
        smoothness: smoothness b of the true distribution in the formula of the theory, which is reconstructed from
            memory.
        smallest_std: minimum s_min of the standard deviation s of the model; if t is larger, the minimum is t.
        start_std: initial value of s; if t is larger, the initial value is t.
        std_lr_factor: ratio of the learning rate of log s to the learning rate of the networks.
        optimizer: optimizer of the generator, the encoder and log s.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from lightning_modules.networks.mlp import MLP
        >>> SingularDensity(MLP(1, [4], 2), latent_dim=1).generate_points(10).shape
        torch.Size([10, 2])
    """

    def __init__(
        self,
        network: nn.Module,
        latent_dim: int,
        points: int = 200,
        likelihood: Literal["quadrature", "monte_carlo", "importance"] = "quadrature",
        encoder: nn.Module | None = None,
        perturbation: float | None = None,
        smoothness: float = 2.0,
        smallest_std: float = 0.01,
        start_std: float = 0.01,
        std_lr_factor: float = 1.0,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, latent_dim=latent_dim, points=points)
        at_least(0, perturbation=perturbation)
        positive(smoothness=smoothness, smallest_std=smallest_std, std_lr_factor=std_lr_factor)
        at_least(smallest_std, start_std=start_std)
        one_of(("quadrature", "monte_carlo", "importance"), likelihood=likelihood)
        only_with("perturbation null", perturbation is None, SingularDensity, smoothness=smoothness)
        if (encoder is not None) != (likelihood == "importance"):
            raise ValueError(f"encoder must be given if and only if likelihood is importance, got {likelihood}")
        self.cells = cells_per_axis(points, latent_dim) if likelihood == "quadrature" else 0
        self.network = network
        self.latent_dim = latent_dim
        self.points = points
        self.likelihood = likelihood
        self.encoder = encoder
        self.perturbation = perturbation
        self.smoothness = smoothness
        self.smallest_std = smallest_std
        self.start_std = start_std
        self.std_lr_factor = std_lr_factor
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.log_std = nn.Parameter(torch.tensor(math.log(start_std)))
        self.held_out = Collected()
        self.tables: dict[str, Table] = {}

    def forward(self, latent: Tensor) -> Tensor:
        return self.network(latent)

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        samples = require_data(self.trainer, TrainingSamples, "SingularDensity").num_train_samples
        rate = perturbation_rate(samples, self.smoothness, self.latent_dim)
        self.level = rate if self.perturbation is None else self.perturbation
        self.least_std = max(self.level, self.smallest_std)
        nn.init.constant_(self.log_std, math.log(max(self.level, self.start_std)))
        self.noise: Tensor | None = None

    def perturbed_rows(self, batch: TableBatch) -> Tensor:
        """Return the noisy points of the batch, x + t e, `[B, D]`.

        The noise e of a point depends only on the seed and on the point's index.
        """
        x = batch["features"]
        if self.level == 0:
            return x
        if self.noise is None:  # the noise of a row does not depend on the number of rows
            samples = require_data(self.trainer, TrainingSamples, "SingularDensity").num_train_samples
            drawn = np.random.default_rng([run_seed(), 3]).standard_normal((samples, x.shape[1]))
            self.noise = torch.from_numpy(drawn).to(x)
        return x + self.level * self.noise[batch["index"]]

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Compute log p_{f,s}(x), or a lower bound on it, for points x, `[B, D]`; the result is `[B]`.

        Each call samples new latents. The networks always compute in full precision, because in bfloat16 the rounding
        error of the generated points would be half of the default `smallest_std`.
        """
        with in_full_precision(x.device):
            return self._log_likelihood(x)

    def _log_likelihood(self, x: Tensor) -> Tensor:
        log_std = self.log_std
        if self.encoder is not None:
            posterior = self.encoder(x)
            drawn = sample_rows(torch.randn, (len(x), self.points, self.latent_dim), x.device, dtype=x.dtype)
            mean, log_width = posterior[:, None].chunk(2, dim=-1)
            latent = mean + log_width.exp() * drawn
            generated = self.network(latent.flatten(0, 1)).view(*latent.shape[:2], -1)
            return importance_log_likelihood(x, generated, latent, posterior, log_std)
        draw: Callable[..., Tensor] = torch.rand if self.cells else torch.randn
        with shared_rng():
            latent = draw(self.points, self.latent_dim, dtype=x.dtype).to(x.device, non_blocking=True)
        centre = self.network(stratified_points(latent, self.cells) if self.cells else latent)
        return mixture_log_likelihood(x, centre, log_std)

    def training_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        loss = -self.log_likelihood(self.perturbed_rows(batch)).mean()
        return {"loss": log_training(self, batch, loss)}

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log_std.clamp_(min=math.log(self.least_std))

    def on_train_epoch_end(self) -> None:
        log_same(self, "train/std", self.log_std.exp())

    @evaluate_without_gradients
    def generate_points(self, count: int) -> Tensor:
        """Generate `count` points f(z); the result is `[count, D]`.

        The latents z come from a Sobol sequence, which covers their distribution evenly.
        """
        uniform = SobolEngine(self.latent_dim, scramble=True, seed=run_seed()).draw(count, dtype=torch.float64)
        latent = uniform if self.likelihood == "quadrature" else torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))
        with in_full_precision(self.device):
            return self.network(latent.to(self.log_std))

    def validation_step(self, batch: TableBatch, batch_idx: int) -> None:
        self.held_out.update(batch["index"], batch["features"].double())

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        self.held_out.update(batch["index"], batch["features"].double())

    def on_validation_epoch_end(self) -> None:
        self._compare("val")

    def on_test_epoch_end(self) -> None:
        self._compare("test")

    def _compare(self, stage: str) -> None:
        _, truth = self.held_out.compute()
        self.held_out.reset()
        generated = self.generate_points(len(truth)).double().cpu()
        log_std = self.log_std.double().cpu()
        log_same(self, f"{stage}/sliced_wasserstein", sliced_wasserstein(generated, truth))
        if len(truth) <= MOST_POINTS:
            log_same(self, f"{stage}/wasserstein", wasserstein(generated, truth))
        log_same(self, f"{stage}/distance_to_support", torch.cdist(generated, truth).amin(1).mean())
        log_same(self, f"{stage}/log_likelihood", mixture_log_likelihood(truth, generated, log_std).mean())
        log_same(self, f"{stage}/std", log_std.exp())
        points = torch.cat([truth, generated])[:, :2].numpy()
        laws = ["truth"] * len(truth) + ["generated"] * len(generated)
        columns = {"x_1": points[:, 0], "x_2": points[:, 1], "law": laws}
        self.tables = {"points": Table(columns, kind="points")}

    def configure_optimizers(self) -> Any:
        encoder = [] if self.encoder is None else [self.encoder]
        log_std = {"params": [self.log_std], "lr_factor": self.std_lr_factor}
        optimizer = self.optimizer([{"params": trainable_parameters(self.network, *encoder)}, log_std])
        scale_learning_rates(optimizer)
        return with_schedule(optimizer, self.lr_scheduler)
