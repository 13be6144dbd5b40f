"""Re-weighting of training samples as a bilevel problem.

The upper-level variable x contains the logits of the sample weights. Each lower-level problem trains a logistic model
with parameters w.

    g_i(x, w) = (1/n) sum_j sigmoid(x_j) l(y_j <w, z_j> / sigma_i) + lambda / 2 |w|^2,    l(u) = log(1 + exp(-u)),
    f_i(w) = mean of l(y <w, z> / sigma_i) over trusted samples,

where z = (1, features). Here x_j, y_j and z_j belong to training sample j, and sigma_i is the temperature of model i.
A batch of B samples is used to estimate each mean.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from datamodules.arguments import at_least
from datamodules.batches import TableBatch, global_batch_size, loss_weight
from datamodules.distributed.collectives import all_reduce_sum, run_seed
from datamodules.randomness.generators import generator_of
from lightning_modules.distributed.independent import Hosted, require_independent
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import Table, TrainingRows, require_data
from lightning_modules.optimization.mbbo.blocks import (
    BlockProblem,
    Rates,
    course_tables,
    sampled_blocks,
    storm,
    tracking_errors,
)
from lightning_modules.training.iterations import OwnUpdates, iterate
from lightning_modules.training.logging import log_same
from lightning_modules.training.requirements import require_all_rows


class WeightedSamples(NamedTuple):
    """A batch of B samples for each of k blocks."""

    z: Tensor
    """Vectors z = (1, features), `[k, B, D]`."""
    a: Tensor
    """Values y / sigma_i for labels y in {-1, 1}, `[k, B]`."""
    place: Tensor
    """Positions of the samples among the weighted or the trusted rows, `[k, B]`."""


class Batch(NamedTuple):
    """The weighted samples and the trusted samples of an iteration."""

    training: WeightedSamples
    trusted: WeightedSamples


def with_one(features: Tensor) -> Tensor:
    """Prepend a column of ones to features `[N, D - 1]`."""
    return torch.cat([features.new_ones(len(features), 1), features], dim=1)


def wrong(samples: WeightedSamples, w: Tensor) -> Tensor:
    """Compute r = sigmoid(-a <w, z>), `[k, B]`, for models w, `[k, D]`.

    The value r is the probability that a model assigns to the wrong label -y.
    """
    return torch.sigmoid(-samples.a * (samples.z @ w[..., None])[..., 0])


class Reweighting(BlockProblem):
    """Closed-form derivatives of the re-weighting problem.

    Args:
        ridge: weight lambda of the L2 penalty.
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
    """Compute the mean logistic loss of each of k models over N samples.

    The result has the shape `[k]`.

    Args:
        z: vectors z = (1, features), `[N, D]`.
        target: labels in {-1, 1}, `[N]`.
        w: models, `[k, D]`.
        temperature: temperatures sigma of the models, `[k]`.
    """
    return F.softplus(-target * (w @ z.T) / temperature[:, None]).mean(1)


class WeightedRows:
    """The weighted and the trusted training rows of `datamodules.tables.TrustedRows`.

    Each rank stores all rows.

    Args:
        rows: mapping with the tensors `features`, `target`, `trusted` and, if known, `corrupted`.
        samples: maximum number n of weighted rows.
        features: number D - 1 of features of a row.
    """

    def __init__(self, rows: Mapping[str, Tensor], samples: int, features: int) -> None:
        if "trusted" not in rows:
            raise ValueError(
                "learning weights needs trusted rows: use datamodules.tables.trusted_rows.TrustedRows as data.table"
            )
        trusted, width = rows["trusted"], rows["features"].shape[1]
        if width != features:
            raise ValueError(f"model.features must be {width}, the number of features of a row, got {features}")
        if (count := int((~trusted).sum())) > samples:
            raise ValueError(f"model.samples must be at least {count}, the number of weighted rows, got {samples}")
        z, target = with_one(rows["features"].double()), rows["target"].double()
        self.training = z[~trusted], target[~trusted]
        self.trusted = z[trusted], target[trusted]
        self.corrupted = rows["corrupted"][~trusted] if "corrupted" in rows else torch.zeros(count, dtype=torch.bool)

    def to(self, device: torch.device) -> None:
        """Move all rows to the given device."""
        self.training = self.training[0].to(device), self.training[1].to(device)
        self.trusted = self.trusted[0].to(device), self.trusted[1].to(device)
        self.corrupted = self.corrupted.to(device)

    def draw(self, shape: tuple[int, ...], purpose: int, number: int) -> tuple[Tensor, Tensor]:
        """Sample positions of weighted rows and of trusted rows with replacement.

        All ranks sample the same positions.
        """
        random = generator_of(run_seed(), purpose, number)
        sizes = len(self.training[1]), len(self.trusted[1])
        training, trusted = (torch.randint(size, shape, generator=random) for size in sizes)
        return training, trusted

    def batch(self, training: Tensor, trusted: Tensor, temperature: Tensor) -> Batch:
        """Make a batch from the positions of weighted rows and of trusted rows, both `[k, B]`.

        The argument `temperature`, `[k]`, contains the temperatures of the k blocks.
        """

        def samples(rows: tuple[Tensor, Tensor], place: Tensor) -> WeightedSamples:
            place = place.to(temperature.device, non_blocking=True)
            return WeightedSamples(rows[0][place], rows[1][place] / temperature[:, None], place)

        return Batch(samples(self.training, training), samples(self.trusted, trusted))

    def whole(self, temperature: Tensor) -> Batch:
        """Make a batch that contains all rows for each of k blocks.

        The argument `temperature`, `[k]`, contains the temperatures of the blocks.
        """
        sizes = len(self.training[1]), len(self.trusted[1])
        training, trusted = (torch.arange(size).expand(len(temperature), -1) for size in sizes)
        return self.batch(training, trusted, temperature)


TEMPERATURES = 123
"""Seed for sampling the temperatures of the blocks; it is the same in all runs."""


class WeighingSteps:
    """Mixin for everything that `BSVRB` and `RSVRB` share: batches, logging, test steps, tables and checkpoints.

    A subclass calls `start` in its constructor, and implements the updates in `_begin` and `_move`. Each training step
    runs several iterations.
    """

    blocks: Any
    """A `Hosted` object with the models `y` and the trackers `s`."""
    x: nn.Parameter
    """Logits of the sample weights, `[n]`."""
    x_before: Tensor
    z: Tensor
    temperature: Tensor

    def start(
        self: Any,
        samples: int,
        blocks: Hosted,
        sampled: int,
        batch_size: int,
        rates: Rates,
        ridge: float,
        spread: float,
        length: int,
        tracking: bool,
    ) -> None:
        """Check and store the arguments that `BSVRB` and `RSVRB` share; they are described in `BSVRB`.

        `length` is the number of iterations per training step.
        """
        at_least(1, samples=samples, sampled_blocks=sampled, batch_size=batch_size, iterations_per_step=length)
        at_least(0, spread=spread)
        if blocks.count % sampled:
            raise ValueError(f"sampled_blocks must divide {blocks.count}, the number of blocks, got {sampled}")
        if not ridge > 0:
            raise ValueError(
                f"ridge must be positive, got {ridge}: without it the models' losses are not strongly convex"
            )
        self.automatic_optimization = False
        self.problem = Reweighting(ridge)
        self.blocks, self.sampled, self.batch_size = blocks, sampled, batch_size
        self.rates, self.iterations_per_step, self.tracking = rates, length, tracking
        self.x = nn.Parameter(torch.zeros(samples, dtype=torch.float64))
        for name in ("x_before", "z"):
            self.register_buffer(name, torch.zeros(samples, dtype=torch.float64))
        drawn = np.random.default_rng(TEMPERATURES).random(blocks.count)
        self.register_buffer("temperature", torch.from_numpy(1 + spread * drawn), persistent=False)
        self.history: list[dict[str, Tensor]] = []

    @abstractmethod
    def _begin(self, batch: Batch) -> Tensor:
        """Initialise this rank's trackers from a batch. Return the sum of -grad F_i over the rank's blocks, `[n]`."""

    @abstractmethod
    def _move(self, number: int, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Update the sampled blocks of this rank.

        Return the sums of -grad F_i over these blocks, `[n]`, at the current and at the previous iterate.

        Args:
            number: index of the current iteration, from 0.
            rows: row indices of the sampled blocks on this rank.
            batch: batch that contains samples for these blocks.
        """

    def setup(self: Any, stage: str) -> None:
        trainer, name = self.trainer, type(self).__name__
        require_double(trainer, name)
        require_all_rows(trainer, name)
        require_independent(trainer)
        rows = require_data(trainer, TrainingRows, name).training_rows
        self.rows = WeightedRows(rows, len(self.x), self.blocks.y.shape[1] - 1)
        self.blocks.deal()

    def on_fit_start(self: Any) -> None:
        self.rows.to(self.device)

    on_test_start = on_fit_start

    @property
    def own_temperature(self: Any) -> Tensor:
        return self.blocks.part(self.temperature)

    def training_step(self: Any, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        first, count = self.global_step * self.iterations_per_step, self.iterations_per_step
        if first == 0:
            self._start_trackers()
        plan = sampled_blocks(run_seed(), first, count, self.blocks.count, self.sampled)
        training, trusted = self.rows.draw((count, self.sampled, self.batch_size), 1, self.global_step)
        following = iter(zip(range(first, first + count), plan, training, trusted, strict=True))
        iterate(self, count, lambda: self._iteration(*next(following)))
        return {"loss": self._record(first + count)}

    @torch.no_grad()
    def _start_trackers(self: Any) -> None:
        training, trusted = map(self.blocks.part, self.rows.draw((self.blocks.count, self.batch_size), 2, 0))
        product = self._begin(self.rows.batch(training, trusted, self.own_temperature))
        self.z.copy_(-all_reduce_sum(product) / self.blocks.count)

    def _iteration(self: Any, number: int, blocks: Tensor, training: Tensor, trusted: Tensor) -> None:
        place, rows = self.blocks.select_hosted(blocks)
        batch = self.rows.batch(training[place], trusted[place], self.own_temperature[rows])
        products = self._move(number, rows, batch)
        now, before = (-all_reduce_sum(torch.stack(products)) / self.sampled).unbind()
        self.z.copy_(storm(self.z, now, before, self.rates.beta))
        self.x_before.copy_(self.x)
        self.x.sub_(self.rates.eta * self.z)

    def trusted_objective(self: Any) -> Tensor:
        """Compute the upper-level objective F, which is the mean loss on all trusted samples, averaged over blocks."""
        z, target = self.rows.trusted
        losses = objective(z, target, self.blocks.y, self.own_temperature)
        return all_reduce_sum(losses.sum()) / self.blocks.count

    @torch.no_grad()
    def _record(self: Any, iteration: int) -> Tensor:
        loss = self.trusted_objective()
        weight = torch.sigmoid(self.x[: len(self.rows.corrupted)])
        found = {"iteration": torch.tensor(iteration), "objective": loss}
        if self.tracking:
            batch = self.rows.whole(self.own_temperature)
            found |= tracking_errors(self.blocks, self.problem, self.x, self.z, batch)
        for name, chosen in (("clean weight", ~self.rows.corrupted), ("flipped weight", self.rows.corrupted)):
            found[name] = (weight * chosen).sum() / chosen.sum()
        self.history.append({name: value.detach() for name, value in found.items()})
        log_same(self, "train/loss", loss)
        return loss

    def on_train_epoch_end(self: Any) -> None:
        """Log the last tracking errors of the epoch, if they were computed."""
        for name, value in self.history[-1].items():
            if name.startswith("error"):
                log_same(self, f"train/{name.replace(' ', '_')}", value)

    def forward(self: Any, features: Tensor) -> Tensor:
        """Compute the logits <w, z> of all models, `[N, m]`, for features `[N, D - 1]`.

        All ranks must call this method.
        """
        return with_one(features) @ self.blocks.whole(self.blocks.y).T

    def on_test_epoch_start(self: Any) -> None:
        z, target = self.rows.trusted
        everyone = self.blocks.whole(self.blocks.y)
        self._everyone, right = everyone, (z @ everyone.T * target[:, None] > 0).sum(0)
        self._best = right.argmax()

    def test_step(self: Any, batch: TableBatch, batch_idx: int) -> None:
        z, target = with_one(batch["features"]), batch["target"]
        found = {
            "objective": objective(z, target, self._everyone, self.temperature).mean(),
            "accuracy": (z @ self._everyone[self._best] * target > 0).to(target).mean(),
        }
        for name, value in found.items():
            value = loss_weight(batch) * value
            self.log(f"test/{name}", value, on_epoch=True, batch_size=global_batch_size(batch), sync_dist=True)

    def on_test_epoch_end(self: Any) -> None:
        log_same(self, "test/trusted_objective", self.trusted_objective())
        weight = torch.sigmoid(self.x[: len(self.rows.corrupted)])
        if self.rows.corrupted.any():
            log_same(self, "test/clean_weight", weight[~self.rows.corrupted].mean())
            log_same(self, "test/flipped_weight", weight[self.rows.corrupted].mean())
            log_same(self, "test/flip_auroc", binary_auroc(1 - weight, self.rows.corrupted.long()).to(weight))

    @property
    def tables(self: Any) -> Mapping[str, Table]:
        """Return tables of the trusted objective and of the mean weights of clean and flipped samples."""
        if not self.history:
            return {}
        return course_tables(self.history, bool(self.rows.corrupted.any()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = [{name: value.cpu() for name, value in row.items()} for row in self.history]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

    def configure_optimizers(self: Any) -> OwnUpdates:
        return OwnUpdates([self.x])
