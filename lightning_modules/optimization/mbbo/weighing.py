"""Training and testing of whatever learns weights of training samples by the trusted losses of many models."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from datamodules.arguments import at_least, within
from datamodules.batches import TableBatch, global_batch_size, loss_weight
from datamodules.distributed.world import all_reduce_sum, run_seed
from lightning_modules.distributed.independent import Hosted, require_independent
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import Table, TrainingRows, require_data
from lightning_modules.optimization.mbbo.blocks import sampled_blocks
from lightning_modules.optimization.mbbo.course import course_tables, tracking_errors
from lightning_modules.optimization.mbbo.reweighting import Batch, Reweighting, objective, with_one
from lightning_modules.optimization.mbbo.rows import WeightedRows
from lightning_modules.optimization.mbbo.trackers import storm
from lightning_modules.training.iterations import OwnUpdates, iterate
from lightning_modules.training.logging import log_same
from lightning_modules.training.requirements import require_all_rows

TEMPERATURES = 123
"""Seed of the blocks' temperatures, the same in all runs."""


class WeighingSteps:
    """Gives a LightningModule everything but the updates: batches of sampled blocks, logs, tests, tables, checkpoints.

    The module calls `start` in its constructor, and says by `_begin` and `_iteration` what is done with a batch. A step
    is several iterations.
    """

    blocks: Any
    """`Hosted`, with models `y` and trackers `s`."""
    x: nn.Parameter
    """Logits of the weights, `[n]`."""
    x_before: Tensor
    z: Tensor
    temperature: Tensor

    def start(
        self: Any,
        samples: int,
        blocks: Hosted,
        sampled: int,
        batch_size: int,
        eta: float,
        beta: float,
        ridge: float,
        spread: float,
        length: int,
        tracking: bool,
    ) -> None:
        """Check and keep what every such module is given, see `BSVRB`; `length` is the iterations of a step.

        Raises:
            ValueError: if an argument is out of range.
        """
        at_least(1, samples=samples, sampled_blocks=sampled, batch_size=batch_size, iterations_per_step=length)
        at_least(0, eta=eta, spread=spread)
        within(0, 1, "(]", beta=beta)
        if blocks.count % sampled:
            raise ValueError(f"sampled_blocks must divide the {blocks.count} blocks, got {sampled}")
        if not ridge > 0:
            raise ValueError(
                f"ridge must be positive, got {ridge}: without it the models' losses are not strongly convex"
            )
        self.automatic_optimization = False
        self.problem = Reweighting(ridge)
        self.blocks, self.sampled, self.batch_size = blocks, sampled, batch_size
        self.eta, self.beta, self.iterations_per_step, self.tracking = eta, beta, length, tracking
        self.x = nn.Parameter(torch.zeros(samples, dtype=torch.float64))
        for name in ("x_before", "z"):
            self.register_buffer(name, torch.zeros(samples, dtype=torch.float64))
        drawn = np.random.default_rng(TEMPERATURES).random(blocks.count)
        self.register_buffer("temperature", torch.from_numpy(1 + spread * drawn), persistent=False)
        self.history: list[dict[str, Tensor]] = []

    @abstractmethod
    def _begin(self, batch: Batch) -> Tensor:
        """Start the trackers from a batch of all blocks of this process, and give their sum of -grad F_i, `[n]`."""

    @abstractmethod
    def _move(self, number: int, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take an iteration of this process's blocks, and sum their -grad F_i, `[n]`, at this iterate and the last.

        Args:
            number: of the iteration, from 0.
            rows: sampled blocks, places among those of this process.
            batch: of these blocks.
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
        training, trusted = self.rows.drawn((count, self.sampled, self.batch_size), 1, self.global_step)
        following = iter(zip(range(first, first + count), plan, training, trusted, strict=True))
        iterate(self, count, lambda: self._iteration(*next(following)))
        return {"loss": self._record(first + count)}

    @torch.no_grad()
    def _start_trackers(self: Any) -> None:
        training, trusted = map(self.blocks.part, self.rows.drawn((self.blocks.count, self.batch_size), 2, 0))
        product = self._begin(self.rows.batch(training, trusted, self.own_temperature))
        self.z.copy_(-all_reduce_sum(product) / self.blocks.count)

    def _iteration(self: Any, number: int, blocks: Tensor, training: Tensor, trusted: Tensor) -> None:
        place, rows = self.blocks.hosted(blocks)
        batch = self.rows.batch(training[place], trusted[place], self.own_temperature[rows])
        products = self._move(number, rows, batch)
        now, before = (-all_reduce_sum(torch.stack(products)) / self.sampled).unbind()
        self.z.copy_(storm(self.z, now, before, self.beta))
        self.x_before.copy_(self.x)
        self.x.sub_(self.eta * self.z)

    def trusted_objective(self: Any) -> Tensor:
        """Compute F: the mean over blocks of the loss on all trusted samples."""
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
        """Log the last errors of the trackers, where they are measured."""
        for name, value in self.history[-1].items():
            if name.startswith("error"):
                log_same(self, f"train/{name.replace(' ', '_')}", value)

    def forward(self: Any, features: Tensor) -> Tensor:
        """Give the margins of all models, `[N, m]`, at features `[N, D - 1]`; every process calls it."""
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
        """The objective on trusted samples, and the mean weights of clean and flipped ones, over the iterations."""
        if not self.history:
            return {}
        return course_tables(self.history, bool(self.rows.corrupted.any()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = [{name: value.cpu() for name, value in row.items()} for row in self.history]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

    def configure_optimizers(self: Any) -> OwnUpdates:
        return OwnUpdates([self.x])
