"""The module that learns weights of training samples by the trusted losses of many models."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from datamodules.arguments import at_least, one_of, positive, within
from datamodules.batches import TableBatch, global_size, share
from datamodules.loading.world import summed
from lightning_modules.distributed.independent import require_independent
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import Table, TrainingRows, require_data
from lightning_modules.optimization.mbbo.blocks import Blocks, Rates, sampled_blocks
from lightning_modules.optimization.mbbo.course import course_tables, tracking_errors
from lightning_modules.optimization.mbbo.reweighting import Reweighting, objective, with_one
from lightning_modules.optimization.mbbo.rows import WeightedRows
from lightning_modules.optimization.mbbo.trackers import storm
from lightning_modules.random_numbers import run_seed
from lightning_modules.training.iterations import OwnUpdates, iterate
from lightning_modules.training.logging import log_same
from lightning_modules.training.requirements import require_all_rows

TEMPERATURES = 123
"""Seed of the blocks' temperatures, the same in all runs."""


class BSVRB(LightningModule):
    """Learn the weights of training samples for many logistic models at once; one process or several.

    Of the training rows those that are not `trusted` get weights. Several processes need `--config
    configs/trainer/independent.yaml`, and each has a part of the blocks and all rows.

    Args:
        samples: n, at least as many as there are training samples that get weights.
        features: of a sample.
        blocks: m, models with temperatures of their own.
        sampled_blocks: I, blocks of an iteration; a divisor of m.
        batch_size: B, training samples, and as many trusted ones, of a block in an iteration, drawn with replacement.
        variant: `v1` tracks Hessians, `v2` needs products with them alone.
        eta: step size of the weights' logits; 0 keeps all weights at one half.
        tau: step size of the models.
        tau_v: step size of the solutions v of `v2`.
        alpha: weight of a sample in the trackers of blocks, in (0, 1].
        gamma: weight of the change in them.
        beta: weight of a sample in the tracker of the weights' gradient, in (0, 1].
        ridge: lambda, the models' strong convexity; positive.
        radius: of the ball of v.
        spread: temperatures are 1 + spread U(0, 1).
        iterations_per_step: iterations in a training step, which is logged once.
        tracking: whether the errors of the trackers are measured after each step, which takes all rows of all blocks.

    Raises:
        ValueError: if an argument is out of range; at setup, if precision, strategy or rows do not fit.
    """

    z: Tensor
    x_before: Tensor
    temperature: Tensor

    def __init__(
        self,
        samples: int,
        features: int,
        blocks: int = 100,
        sampled_blocks: int = 10,
        batch_size: int = 32,
        variant: Literal["v1", "v2"] = "v1",
        eta: float = 1e-3,
        tau: float = 0.5,
        tau_v: float = 1.0,
        alpha: float = 0.9,
        gamma: float = 1.0,
        beta: float = 0.9,
        ridge: float = 1e-5,
        radius: float = 10.0,
        spread: float = 10.0,
        iterations_per_step: int = 50,
        tracking: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, samples=samples, features=features, blocks=blocks, sampled_blocks=sampled_blocks)
        at_least(1, batch_size=batch_size, iterations_per_step=iterations_per_step)
        if blocks % sampled_blocks:
            raise ValueError(f"sampled_blocks must divide the {blocks} blocks, got {sampled_blocks}")
        one_of(("v1", "v2"), variant=variant)
        at_least(0, eta=eta, gamma=gamma, spread=spread)
        positive(tau=tau, tau_v=tau_v, radius=radius)
        if not ridge > 0:
            raise ValueError(
                f"ridge must be positive, got {ridge}: without it the models' losses are not strongly convex"
            )
        within(0, 1, "(]", alpha=alpha, beta=beta)
        self.automatic_optimization = False
        self.sampled = sampled_blocks
        self.batch_size = batch_size
        self.eta = eta
        self.beta = beta
        self.rates = Rates(alpha, gamma, tau, tau_v, ridge, radius)
        self.iterations_per_step = iterations_per_step
        self.tracking = tracking
        self.problem = Reweighting(ridge)
        self.blocks = Blocks(blocks, features + 1, variant)
        self.x = nn.Parameter(torch.zeros(samples, dtype=torch.float64))
        for name in ("x_before", "z"):
            self.register_buffer(name, torch.zeros(samples, dtype=torch.float64))
        drawn = np.random.default_rng(TEMPERATURES).random(blocks)
        self.register_buffer("temperature", torch.from_numpy(1 + spread * drawn), persistent=False)
        self.history: list[dict[str, Tensor]] = []

    def setup(self, stage: str) -> None:
        trainer = self.trainer
        require_double(trainer, "BSVRB")
        require_all_rows(trainer, "BSVRB")
        require_independent(trainer)
        rows = require_data(trainer, TrainingRows, "BSVRB").training_rows
        self.rows = WeightedRows(rows, len(self.x), self.blocks.y.shape[1] - 1)
        self.blocks.deal()

    def on_fit_start(self) -> None:
        self.rows.to(self.device)

    on_test_start = on_fit_start

    @property
    def own_temperature(self) -> Tensor:
        return self.blocks.part(self.temperature)

    def training_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        first, count = self.global_step * self.iterations_per_step, self.iterations_per_step
        if first == 0:
            self._begin()
        before = max(first - 1, 0)
        plan = sampled_blocks(run_seed(), before, first + count - before, self.blocks.count, self.sampled)
        moved, *plans = plan if first else [plan[0][:0], *plan]
        training, trusted = self.rows.drawn((count, self.sampled, self.batch_size), 1, self.global_step)
        following = iter(zip(range(first, first + count), plans, training, trusted, strict=True))
        last = self.blocks.hosted(moved)[1]

        def iteration() -> None:
            nonlocal last
            last = self._iteration(*next(following), last)

        iterate(self, count, iteration)
        return {"loss": self._record(first + count)}

    @torch.no_grad()
    def _begin(self) -> None:
        training, trusted = map(self.blocks.part, self.rows.drawn((self.blocks.count, self.batch_size), 2, 0))
        batch = self.rows.batch(training, trusted, self.own_temperature)
        product = self.blocks.begin(self.problem, self.x, batch, self.rates.mu)
        self.z.copy_(-summed(product) / self.blocks.count)

    def _iteration(self, number: int, blocks: Tensor, training: Tensor, trusted: Tensor, last: Tensor) -> Tensor:
        place, rows = self.blocks.hosted(blocks)
        batch = self.rows.batch(training[place], trusted[place], self.own_temperature[rows])
        self.blocks.shift(last)
        products = self.blocks.move(self.problem, self.x, self.x_before, rows, batch, number, self.rates)
        now, before = (-summed(torch.stack(products)) / self.sampled).unbind()
        self.z.copy_(storm(self.z, now, before, self.beta))
        self.x_before.copy_(self.x)
        self.x.sub_(self.eta * self.z)
        return rows

    def trusted_objective(self) -> Tensor:
        """Compute F: the mean over blocks of the loss on all trusted samples."""
        losses = objective(*self.rows.trusted, self.blocks.y, self.own_temperature)
        return summed(losses.sum()) / self.blocks.count

    @torch.no_grad()
    def _record(self, iteration: int) -> Tensor:
        loss = self.trusted_objective()
        weight = torch.sigmoid(self.x[: len(self.rows.corrupted)])
        found = {"iteration": torch.tensor(iteration), "objective": loss}
        if self.tracking:
            batch = self.rows.whole(self.own_temperature)
            found |= tracking_errors(self.blocks, self.problem, self.x, self.z, batch)
        for name, chosen in (("clean weight", ~self.rows.corrupted), ("flipped weight", self.rows.corrupted)):
            found[name] = (weight * chosen).sum() / chosen.sum()
        self.history.append({name: value.detach().cpu() for name, value in found.items()})
        log_same(self, "train/loss", loss)
        return loss

    def forward(self, features: Tensor) -> Tensor:
        """Give the margins of all models, `[N, m]`, at features `[N, D - 1]`; every process calls it."""
        return with_one(features) @ self.blocks.whole(self.blocks.y).T

    def on_test_epoch_start(self) -> None:
        z, target = self.rows.trusted
        everyone = self.blocks.whole(self.blocks.y)
        self._everyone, right = everyone, (z @ everyone.T * target[:, None] > 0).sum(0)
        self._best = right.argmax()

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        z, target = with_one(batch["features"]), batch["target"]
        found = {
            "objective": objective(z, target, self._everyone, self.temperature).mean(),
            "accuracy": (z @ self._everyone[self._best] * target > 0).to(target).mean(),
        }
        for name, value in found.items():
            value = share(batch) * value
            self.log(f"test/{name}", value, on_epoch=True, batch_size=global_size(batch), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        log_same(self, "test/trusted_objective", self.trusted_objective())
        weight = torch.sigmoid(self.x[: len(self.rows.corrupted)])
        if self.rows.corrupted.any():
            log_same(self, "test/clean_weight", weight[~self.rows.corrupted].mean())
            log_same(self, "test/flipped_weight", weight[self.rows.corrupted].mean())
            log_same(self, "test/flip_auroc", binary_auroc(1 - weight, self.rows.corrupted.long()).to(weight))

    @property
    def tables(self) -> Mapping[str, Table]:
        """The objective on trusted samples, and the mean weights of clean and flipped ones, over the iterations."""
        if not self.history:
            return {}
        return course_tables(self.history, bool(self.rows.corrupted.any()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

    def configure_optimizers(self) -> OwnUpdates:
        return OwnUpdates([self.x])
