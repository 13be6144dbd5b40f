"""The LightningModule that trains many patch networks at one learning rate to study benign oscillation."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from datamodules.batches import TableBatch, global_batch_size
from datamodules.distributed.collectives import all_reduce_sum, run_seed
from datamodules.tables.feature_noise import FeatureNoise
from lightning_modules.distributed.global_rows import global_rows
from lightning_modules.dynamics.benign_oscillation.observables import (
    INNER_PRODUCTS,
    inner_products,
    oscillation,
    right_answers,
)
from lightning_modules.dynamics.benign_oscillation.patch_network import (
    PatchPoints,
    component,
    descend_patches,
    drawn_order,
    output,
    points_of,
)
from lightning_modules.dynamics.benign_oscillation.scalar_map import bifurcation, window
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import Table
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import sgd
from lightning_modules.training.logging import log_same, log_training

COURSE = ("mean |1 - y f|", "sum of 1 - y f", *INNER_PRODUCTS, "loss", "weak contribution")
"""Columns of the table `course` after the first two; `weak contribution` is the minimum over both classes."""
DRAWN = ("mean |1 - y f|", "sum of 1 - y f", "<w+, v>", "weak contribution")
QUANTILES = {"lowest tenth": 0.1, "median": 0.5, "highest tenth": 0.9}


def plain_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate eta of an optimizer, which must be plain SGD, w <- w - eta grad."""
    if type(optimizer) is not torch.optim.SGD:
        raise ValueError(f"model.optimizer must be torch.optim.SGD, got {type(optimizer).__name__}")
    for key in ("momentum", "weight_decay", "maximize"):
        if value := optimizer.param_groups[0][key]:
            raise ValueError(f"model.optimizer must be plain SGD, got {key} {value}")
    positive(lr=optimizer.param_groups[0]["lr"])
    return float(optimizer.param_groups[0]["lr"])


class BenignOscillation(MethodModule):
    """Train many patch networks at once on strong and weak features by SGD with batch size 1.

    Args:
        replicas: number S of networks that are trained at once, each on its own training set; the table contains all
            training sets.
        filters: number m of filters in each of the two groups.
        dim: dimension d of a patch.
        delta: minimum |1 - y f| that counts as oscillation.
        iterations_per_step: number of SGD iterations per training step; a row of the training history is recorded once
            per training step.
        optimizer: optimizer, which must be torch.optim.SGD without momentum and weight decay.
    """

    iteration: Tensor
    residual_sum: Tensor
    oscillation: Tensor
    overshot: Tensor
    learned: Tensor

    def __init__(
        self,
        replicas: int = 1,
        filters: int = 8,
        dim: int = 64,
        delta: float = 0.2,
        iterations_per_step: int = 160,
        optimizer: OptimizerCallable = sgd,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        at_least(1, replicas=replicas, filters=filters, iterations_per_step=iterations_per_step)
        at_least(3, dim=dim)
        positive(delta=delta)
        self.weight = nn.Parameter(torch.randn(replicas, 2, filters, dim, dtype=torch.float64) / dim**0.5)
        self.rate = plain_rate(optimizer([self.weight]))
        self.optimizer = optimizer
        self.delta = delta
        self.iterations_per_step = iterations_per_step
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.register_buffer("residual_sum", torch.zeros(replicas, dtype=torch.float64))
        # Over the counted points (see `oscillation`): their number, the sum of l^2, and the number with |l| >= delta
        self.register_buffer("oscillation", torch.zeros(3, replicas, dtype=torch.float64))
        self.register_buffer("overshot", torch.zeros(replicas, dtype=torch.bool))
        self.register_buffer("learned", torch.zeros(replicas, dtype=torch.bool))
        self.history: list[Tensor] = []
        self._points: PatchPoints | None = None
        self._right: Tensor | None = None  # numbers of points and of correct predictions (see `right_answers`)
        self._tested: dict[str, list[float]] = {}

    def forward(self, features: Tensor) -> Tensor:
        """Compute outputs f `[B, S]` for each network's own points `[B, S, P, d]` or shared points `[B, 1, P, d]`."""
        return output(self.weight, features)

    def setup(self, stage: str) -> None:
        require_double(self.trainer, "BenignOscillation")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        table = getattr(data, "table", None)
        if not isinstance(table, FeatureNoise):
            raise ValueError(f"data.table must be a FeatureNoise for BenignOscillation, got {type(table).__name__}")
        if not data.whole:
            raise ValueError(
                f"data.batch_size must be unset, got {data.batch_size}: BenignOscillation samples batches of one point"
            )
        for key, own in (("replicas", len(self.weight)), ("dim", self.weight.shape[-1])):
            if (of_table := getattr(table, key)) != own:
                raise ValueError(f"data.table.{key} must equal model.{key}, {own}, got {of_table}")
        self.window = window(self.weight.shape[2], table.strong_norm)

    # Training

    @torch.no_grad()
    def training_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        points = self._points = self._points or self._collect(batch)
        order = drawn_order(run_seed(), self.iteration, self.iterations_per_step, *points.target.shape)
        signed = descend_patches(self.weight, points, order, self.rate)
        self.iteration += self.iterations_per_step
        self._follow(points, order, signed)
        self.optimizers().step()  # type: ignore[union-attr] # only advances the global step
        loss = (1 - signed) ** 2
        finite = loss.isfinite()
        mean = torch.where(finite, loss, 0).sum() / finite.sum().clamp(min=1)
        return {"loss": log_training(self, batch, mean)}

    def _collect(self, batch: TableBatch) -> PatchPoints:
        """Gather the training sets from all ranks, in dataset order."""
        whole = [global_rows(batch[key], global_batch_size(batch)) for key in ("index", "features", "target")]
        place = whole[0].argsort()
        return points_of(whole[1][place], whole[2][place], self.trainer.datamodule.table.signals)  # type: ignore[attr-defined]

    def _follow(self, points: PatchPoints, order: Tensor, signed: Tensor) -> None:
        """Update the statistics of the oscillation, and append a row to the training history."""
        strong = points.strong[order, torch.arange(order.shape[1], device=order.device)]
        counts, overshot = oscillation(signed, strong, self.delta, self.overshot, self.learned)
        self.oscillation += counts
        self.overshot.copy_(overshot)
        contribution = component(self.weight, points.signals[1]).amin(dim=0)
        self.learned |= contribution >= self.delta / 4
        residual = (1 - signed) * strong
        self.residual_sum += residual.sum(dim=0)
        distance = residual.abs().sum(dim=0) / strong.sum(dim=0)
        products, loss = inner_products(self.weight, points), ((1 - signed) ** 2).mean(dim=0)
        self.history.append(torch.stack([distance, self.residual_sum, *products, loss, contribution]))

    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop = self.trainer.should_stop or not bool(self._finite().any())

    def configure_optimizers(self) -> Any:
        return self.optimizer([self.weight])

    def _finite(self) -> Tensor:
        """Return a mask of the networks that have not diverged, `[S]`, bool."""
        return self.weight.isfinite().flatten(1).all(dim=1)

    # Results

    def on_validation_epoch_start(self) -> None:
        self._right = None

    def validation_step(self, batch: TableBatch, batch_idx: int) -> None:
        strong = batch["features"][:, 0, 0].any(dim=1)
        counts = right_answers(self(batch["features"]), batch["target"], strong)
        self._right = counts if self._right is None else self._right + counts

    def on_validation_epoch_end(self) -> None:
        self._log_means("val", self._accuracies())

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log accuracies and oscillation metrics as means over the networks that did not diverge."""
        draws, squares, far = self.oscillation
        found = {
            "rms_residual": (squares / draws.clamp(min=1)).sqrt(),
            "oscillating_draws": far / draws.clamp(min=1),
            "oscillation_held": (draws > 0) & (squares >= self.delta**2 * draws),
            "oscillation_held_always": (draws > 0) & (far == draws),
            "weak_feature_learned": self.learned,
            "residual_sum": self.residual_sum,
            **self._accuracies(),
        }
        self._tested = self._log_means("test", found)
        log_same(self, "test/diverged", (~self._finite()).to(self.dtype).mean())
        least, greatest = self.window
        place = {"a": self.rate / least, "least_rate": least, "greatest_rate": greatest}
        for name, value in {**place, "in_window": float(least < self.rate <= greatest)}.items():
            log_same(self, f"test/{name}", value)

    def _accuracies(self) -> dict[str, Tensor]:
        """Compute each network's accuracy on points without the strong feature, points with it, and all points."""
        assert self._right is not None
        counts = all_reduce_sum(self._right)
        share = (counts[:, 1:] / counts[:, :1]).unbind(0)
        return dict(zip(("weak_accuracy", "strong_accuracy", "accuracy"), share, strict=True))

    def _log_means(self, stage: str, found: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """Log means over networks that did not diverge, and return these networks' values; empty if all diverged."""
        finite = self._finite()
        if not bool(finite.any()):
            return {}
        own = {name: value[finite].to(self.dtype) for name, value in found.items()}
        for name, value in own.items():
            log_same(self, f"{stage}/{name}", value.mean())
        return {name: value.tolist() for name, value in own.items()}

    @property
    def tables(self) -> Mapping[str, Table]:
        """Return tables of the training history, of the scalar map and, after a test, of the results per network."""
        a, s, mean = bifurcation()
        columns = {"a": a, "s": s, "mean of 1 - s": mean}
        made = {"bifurcation": Table(columns, kind="points", logarithmic=("s", "mean of 1 - s"))}
        if self.history:
            rows = torch.stack(self.history).cpu()  # [rows, columns, S]
            iterations = [(number + 1) * self.iterations_per_step for number in range(len(rows))]
            values = torch.cat([rows.nanquantile(share, dim=2) for share in QUANTILES.values()])
            names = [name for name in QUANTILES for _ in iterations]
            columns = dict(zip(COURSE, values.T.tolist(), strict=True))
            course = {"iteration": iterations * len(QUANTILES), "networks": names, **columns}
            made["course"] = Table(course, {name: course[name] for name in DRAWN})
        if self._tested:
            drawn = {"weak_accuracy": self._tested["weak_accuracy"]}
            made["networks"] = Table(self._tested, drawn, kind="points")
        return made

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = [row.cpu() for row in self.history]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
