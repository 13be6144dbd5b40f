"""The LightningModule of MECO and of its baselines."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.generators import generator_of
from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.interfaces import (
    Table,
    TableSource,
    TestOrigins,
    TrainingImageSource,
    TrainingRows,
    data_with,
    require_data,
)
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.metrics.detection import DetectionResult, metrics_by_name
from lightning_modules.optim.optimizers import adam, constant, trainable_parameters, with_schedule
from lightning_modules.probabilistic.meco.noise_distributions import Draw, NoiseDistribution
from lightning_modules.probabilistic.meco.objectives import EnergyObjective
from lightning_modules.training.evaluation_mode import compute_in_batches, evaluate_without_gradients, evaluating
from lightning_modules.training.logging import log_same, log_training

GRID = 301
"""Number of grid points along each side of the square on which a density is normalised."""
DRAWN = 3
"""Stride between plotted grid points."""
AT_ONCE = 2**14
"""Number of points whose energies are computed at once."""


def _log_mean(logarithm: Tensor) -> Tensor:
    return logarithm.logsumexp(0) - math.log(len(logarithm))


def relative_variance(log_weight: Tensor) -> Tensor:
    """Compute the variance of weights, divided by their squared mean, from the logarithms `[n]` of the weights."""
    return (_log_mean(2 * log_weight) - 2 * _log_mean(log_weight)).exp() - 1


class MECO(MethodModule):
    """Fit the energy f of an unnormalised density to points or images.

    The normalising constant Z is unknown, and the objective determines how it is treated.

    Args:
        network: network that maps points `[B, D]`, or images, to energies f `[B, 1]`. If it has `tables`, they are
            saved with the module's own.
        noise: noise distribution q, which may be fitted to the training data before training.
        objective: loss, which is a function of the energies; `MovingAverage` gives MECO.
        image_shape: channels, height and width of the images, if the data are images in [0, 1]; None for other data.
        grid_half_width: half the side length of a square around 0, on which a two-dimensional density is normalised and
            plotted. None means that the normalising constant is estimated with new samples from q.
        evaluation_draws: number of samples from q with which tests estimate the normalising constant.
        langevin_steps: number of Langevin steps that `sample` takes, starting from samples of q.
        langevin_step_size: step size a of the Langevin step x <- x + (a / 2) grad f(x) + sqrt(a) n, where n is standard
            normal.
        optimizer: optimizer of the trainable parameters of the network and the objective.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from lightning_modules.probabilistic.meco.noise_distributions import UniformDistribution
        >>> from lightning_modules.probabilistic.meco.objectives import MovingAverage
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
        >>> model = MECO(network, UniformDistribution(4), MovingAverage(), image_shape=[1, 2, 2], evaluation_draws=100)
        >>> images = model.sample(3, torch.Generator().manual_seed(0))
        >>> images.shape, model.log_density(images).shape
        (torch.Size([3, 1, 2, 2]), torch.Size([3]))
    """

    score = "energy"
    squared_errors: Tensor

    def __init__(
        self,
        network: nn.Module,
        noise: NoiseDistribution,
        objective: EnergyObjective,
        image_shape: Sequence[int] | None = None,
        grid_half_width: float | None = None,
        evaluation_draws: int = 100_000,
        langevin_steps: int = 60,
        langevin_step_size: float = 1e-3,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, evaluation_draws=evaluation_draws)
        at_least(0, langevin_steps=langevin_steps)
        positive(grid_half_width=grid_half_width, langevin_step_size=langevin_step_size)
        self.network = network
        self.noise = noise
        self.objective = objective
        self.image_shape = image_shape
        self.grid_half_width = grid_half_width
        self.evaluation_draws = evaluation_draws
        self.langevin_steps = langevin_steps
        self.langevin_step_size = langevin_step_size
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        # Sum of the squared errors of theta over the steps of an epoch, and number of steps, if the true theta is
        # known.
        self.register_buffer("squared_errors", torch.zeros(2, dtype=torch.float64))
        self.tables: dict[str, Table] = {}
        self.detections: list[DetectionResult] = []
        self._names: list[str] = []  # test sets
        self._seen: list[Collected] = []  # their energies

    def forward(self, x: Tensor) -> Tensor:
        """Compute the energy f, `[B]`, of points `[B, D]`."""
        shaped = x if self.image_shape is None else x.view(-1, *self.image_shape)
        return self.network(shaped).squeeze(1)

    def points(self, batch: Any) -> Tensor:
        """Return the points or the flattened images of a batch, `[B, D]`."""
        return (batch["features"] if self.image_shape is None else batch["image"]).flatten(start_dim=1)

    def on_fit_start(self) -> None:
        if not self.noise.is_fitted:
            return
        if self.image_shape is None:
            self.noise.fit(require_data(self.trainer, TrainingRows, "MECO").training_rows["features"])
            return
        seen = Collected()
        source = require_data(self.trainer, TrainingImageSource, "MECO")
        for on_host in source.training_images_dataloader():
            batch: Any = self.trainer.strategy.batch_to_device(on_host)  # converts stored images to [0, 1]
            seen.update(batch["index"], batch["image"].flatten(start_dim=1).double())
        self.noise.fit(seen.compute()[1])

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        if "w_true" in batch:
            square = (self.network.get_parameter("theta").detach() - batch["w_true"]).square().sum()
            self.squared_errors *= batch_idx > 0
            self.squared_errors += torch.stack([square, torch.ones_like(square)])
        x = self.points(batch)
        z = self.noise.sample(len(x), lambda kind, shape: sample_rows(kind, shape, x.device, dtype=x.dtype))
        at_data, at_noise = self(torch.cat([x, z])).chunk(2)
        loss = self.objective(at_data, at_noise, self.noise.log_density(x), self.noise.log_density(z))
        return {"loss": log_training(self, batch, loss)}

    def on_train_epoch_end(self) -> None:
        log_same(self, "train/log_partition", self.objective.log_partition())

    def log_partition(self) -> Tensor:
        """Compute log Z on the grid if `grid_half_width` is set, and otherwise with new samples from q.

        All ranks use the same samples from q.
        """
        if self.grid_half_width is not None:
            return self._on_grid()[1].double().logsumexp(0) + 2 * math.log(2 * self.grid_half_width / (GRID - 1))
        return _log_mean(self.log_weights())

    @evaluate_without_gradients
    def log_density(self, x: Tensor) -> Tensor:
        """Estimate the logarithm of the normalised density, `[B]` in float64, of points `[B, D]` or images."""
        return self(x.flatten(start_dim=1)).double() - self.log_partition()

    def log_weights(self) -> Tensor:
        """Compute f(z) - log q(z), `[evaluation_draws]`, for new samples z from q."""
        z = self.noise.sample(self.evaluation_draws, self._draw(generator_of(run_seed(), 5)))
        log_density = compute_in_batches(self.noise.log_density, AT_ONCE, z)
        return compute_in_batches(self, AT_ONCE, z).double() - log_density

    def _draw(self, generator: torch.Generator) -> Draw:
        given: dict[str, Any] = {"dtype": next(self.network.parameters()).dtype, "device": generator.device}
        return lambda kind, shape: kind(shape, generator=generator, **given).to(self.device)

    def _on_grid(self) -> tuple[Tensor, Tensor]:
        assert self.grid_half_width is not None
        dtype = next(self.network.parameters()).dtype
        axis = torch.linspace(-self.grid_half_width, self.grid_half_width, GRID, device=self.device, dtype=dtype)
        points = torch.cartesian_prod(axis, axis)
        return points, compute_in_batches(self, AT_ONCE, points)

    def on_test_start(self) -> None:
        data = data_with(self.trainer, TestOrigins)
        self._names = ["own"] if data is None else list(data.origin_names)
        self._seen = [Collected() for _ in self._names]

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._seen[dataloader_idx].update(batch["index"], self(self.points(batch)).double()[:, None])

    def on_test_epoch_end(self) -> None:
        (own, energy), *others = (seen.compute() for seen in self._seen)
        if self.grid_half_width is None:
            log_weight = self.log_weights()
            log_same(self, "test/weight_variance", relative_variance(log_weight))
            log_partition = _log_mean(log_weight).cpu()
        else:
            log_partition = self.log_partition().cpu()
        log_same(self, "test/nll", log_partition - energy.mean())
        log_same(self, "test/log_partition_error", (self.objective.log_partition().cpu() - log_partition).abs())
        if self.squared_errors[1] > 0:
            log_same(self, "test/parameter_rmse", (self.squared_errors[0] / self.squared_errors[1]).sqrt())
        self.detections = []
        for target, (index, other) in zip(self._names[1:], others, strict=True):
            is_target = torch.arange(len(own) + len(index)) >= len(own)
            confidence = {self.score: torch.cat([energy, other])[:, 0]}
            positions = torch.cat([own, index])
            self.detections.append(
                DetectionResult(target, positions, is_target, torch.zeros_like(is_target), confidence)
            )
        named = metrics_by_name(self.detections, self.score, [], len(self.detections))
        for name, value in named.items():
            log_same(self, f"test/{name}", value)
        self.tables = self._tables(log_partition)

    def _tables(self, log_partition: Tensor) -> dict[str, Table]:
        tables = dict(self.network.tables) if isinstance(self.network, TableSource) else {}
        if self.grid_half_width is not None:
            drawn = [part.cpu().view(GRID, GRID, -1)[::DRAWN, ::DRAWN].flatten(0, 1) for part in self._on_grid()]
            (first, second), density = drawn[0].numpy().T, (drawn[1][:, 0] - log_partition).exp().numpy()
            tables["density"] = Table({"x_1": first, "x_2": second, "density": density}, kind="map")
        return tables

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Sample n images `[n, C, H, W]` in [0, 1] by Langevin steps that start from samples of q."""
        if self.image_shape is None:
            raise ValueError("MECO can only sample images if it models a density of images, but image_shape is not set")
        draw = self._draw(generator or torch.default_generator)
        with torch.inference_mode(False), torch.enable_grad(), evaluating(self):
            x = self.noise.sample(n, draw)
            for _ in range(self.langevin_steps):
                x = x.detach().requires_grad_()
                [gradient] = torch.autograd.grad(self(x).sum(), x)
                step = self.langevin_step_size
                x = x + step / 2 * gradient + math.sqrt(step) * draw(torch.randn, tuple(x.shape))
        return x.detach().clamp(0, 1).view(n, *self.image_shape)

    def configure_optimizers(self) -> Any:
        parameters = trainable_parameters(self.network, self.objective)
        return with_schedule(self.optimizer(parameters), self.lr_scheduler)
