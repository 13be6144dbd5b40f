"""The LightningModule for online learning on a stream; it computes the regret after the last round."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.func import functional_call

from datamodules.arguments import at_least, one_of
from datamodules.batches import TableBatch
from datamodules.distributed.collectives import all_reduce_sum, rank, world_size
from lightning_modules.distributed.per_sample import gather_rows, share_sizes
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import Table, TrainingRows, require
from lightning_modules.method_module import MethodModule
from lightning_modules.optimization.optimistic_omd.optimizers import OnlineOptimizer
from lightning_modules.optimization.optimistic_omd.regret import least_on_ball, metrics_and_curves, quadratic
from lightning_modules.training.logging import log_same, log_training

LOSSES: Mapping[str, Callable[[Tensor, Any], Tensor]] = {
    "linear": lambda output, target: output[:, 0],
    "squared": lambda output, target: (output[:, 0] - target).square() / 2,
    "logistic": lambda output, target: F.softplus(-target * output[:, 0]),
    "hinge": lambda output, target: F.relu(1 - target * output[:, 0]),
    "cross_entropy": partial(F.cross_entropy, reduction="none"),
}
"""Loss functions by name; each maps outputs `[n, K]` and targets `[n]` to losses `[n]`."""
DRAWN_ROUNDS = 1000
"""Maximum number of rounds in the table of the regret."""
MEASURED = ("loss", "rows", "gradient_variation", "expected", "noise")
"""Names of the first values stored for each round. If the expected loss is known, its gradient at 0, `[d]`, follows."""
ACCURACY = 1e-6
"""Relative accuracy with which the minimum loss of a stream is computed if the minimum has no closed form."""


class OnlineConvexOptimization(MethodModule):
    """Learn online from a stream, playing each round once; training supports one or several ranks.

    The trained parameters start at 0 and stay in a ball. The network is in evaluation mode, and its outputs must be
    linear in the trained parameters, so that the losses are convex in these parameters.

    Args:
        network: network that maps features `[n, ...]` to outputs `[n, K]`, where K is 1 except for `cross_entropy`.
        loss: loss function: `linear` (the output itself), `squared`, `logistic` or `hinge` (both with targets -1 and
            1), or `cross_entropy`.
        optimizer: optimizer of the trained parameters, one of `OptimisticOMD`, `OptimisticEnsemble`, `ImplicitOMD` and
            the baselines.
        rows_per_round: total number of rows in each round over all ranks; the losses of these rows are averaged. A
            batch consists of one or more rounds.
        ridge: weight of the penalty ridge / 2 ||x||^2 on the parameters x, which is added to the loss of each round.
        trained: name of the submodule to train, such as the last layer of the network; None means the whole network.
    """

    previous: Tensor
    point_sum: Tensor
    radius: Tensor
    curvature: Tensor

    def __init__(
        self,
        network: nn.Module,
        loss: Literal["linear", "squared", "logistic", "hinge", "cross_entropy"],
        optimizer: OptimizerCallable,
        rows_per_round: int = 1,
        ridge: float = 0.0,
        trained: str | None = None,
    ) -> None:
        super().__init__()
        one_of(LOSSES, loss=loss)
        at_least(1, rows_per_round=rows_per_round)
        at_least(0, ridge=ridge)
        self.automatic_optimization = False
        self.network = network.eval().requires_grad_(False)
        names = dict(network.named_modules())
        if trained is not None and trained not in names:
            raise ValueError(
                f"trained must be a part of the network, one of {', '.join(filter(None, names))}, got {trained}"
            )
        learning = names[trained or ""].requires_grad_(True)
        for parameter in learning.parameters():
            nn.init.zeros_(parameter)
        self.names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        self.loss = LOSSES[loss]
        self.optimizer = optimizer
        self.rows_per_round = rows_per_round
        self.ridge = ridge
        for name in ("previous", "point_sum"):
            self.register_buffer(name, torch.zeros(sum(each.numel() for each in self._learning), dtype=torch.float64))
        for name in ("radius", "curvature"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.history: list[Tensor] = []
        self.order: list[Tensor] = []
        self.found: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    @property
    def _learning(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def setup(self, stage: str) -> None:
        require_double(self.trainer, "OnlineConvexOptimization")

    def train(self, mode: bool = True) -> "OnlineConvexOptimization":
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, features: Tensor) -> Tensor:
        return self.network(features)

    def training_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        size, step = batch["global_batch_size"], self.rows_per_round
        if "mean_gradient" in batch and batch["mean_gradient"].shape[1:] != self.previous.shape:
            known = batch["mean_gradient"].shape[1]
            raise ValueError(f"network must have {known} trained parameters for this stream, got {len(self.previous)}")
        if "curvature" in batch:
            self.curvature.copy_(batch["curvature"] + self.ridge)
        rounds = [self._round(batch, start, min(start + step, size)) for start in range(0, size, step)]
        self.history.append(torch.stack(rounds))
        self.order.append(whole_order(batch["index"], size))
        self.found = None
        return {"loss": log_training(self, batch, self.history[-1][:, 0].mean())}

    def _round(self, batch: TableBatch, start: int, stop: int) -> Tensor:
        """Play one round, and return its measured values (see `MEASURED`)."""
        own = slice(*(-(-(place - rank()) // world_size()) for place in (start, stop)))  # rows of this rank
        target = batch["target"][own] if "target" in batch else None
        losses = self.loss(self.network(batch["features"][own]), target)
        gradient = torch.autograd.grad(losses.sum(), self._learning)
        sums = [losses.detach().sum()[None], *(each.flatten() for each in gradient)]
        if known := "mean_gradient" in batch:
            sums += [batch["gradient_noise"][own].sum()[None], batch["mean_gradient"][own].sum(0)]
        total = torch.cat(sums)
        total = (all_reduce_sum(total) if world_size() > 1 else total) / (stop - start)
        optimizer: Any = self.optimizers()
        x = optimizer.point
        loss = total[0] + self.ridge / 2 * x.square().sum()
        g = total[1 : 1 + len(x)] + self.ridge * x
        measured = torch.stack([loss, torch.full_like(loss, stop - start), (g - self.previous).square().sum()])
        if known:
            noise, slope = total[1 + len(x)] / (stop - start), total[2 + len(x) :]
            measured = torch.cat([measured, quadratic(x, slope, self.curvature)[None], noise[None], slope])
        self.point_sum += x
        self.previous.copy_(g)
        for parameter, part in zip(self._learning, g.split([each.numel() for each in self._learning]), strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step(lambda: loss)
        return measured

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.check()

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        """Do nothing, because the test metrics describe the whole stream as it was played in training."""

    def on_test_epoch_end(self) -> None:
        for name, value in self._hindsight()[0].items():
            log_same(self, f"test/{name}", value)

    @property
    def tables(self) -> Mapping[str, Table]:
        """Return a table of the regret by round.

        The comparators are the best fixed point and, if the expected losses are known, the best point of each round.
        """
        if not self.history:
            return {}
        curves = self._hindsight()[1]
        rounds = len(next(iter(curves.values())))
        shown = torch.arange(rounds - 1, -1, -math.ceil(rounds / DRAWN_ROUNDS)).flip(0)
        columns = {
            "round": (shown + 1).tolist() * len(curves),
            "comparator": [name for name in curves for _ in shown],
            "regret": torch.cat([curve[shown] for curve in curves.values()]).tolist(),
        }
        return {"regret": Table(columns)}

    def _hindsight(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute the metrics, and the cumulative regret for each comparator; the results are equal on all ranks."""
        if self.found is None:
            with torch.inference_mode(False), torch.enable_grad():
                history = torch.cat([each.cpu() for each in self.history])
                loss, rows, variation, *known = history[:, : len(MEASURED)].T
                metrics = {"loss": loss.mean(), "gradient_variation": variation.sum()}
                own, curves = self._known_values(known[0], known[1], history) if known else self._observe(loss, rows)
                self.found = {**metrics, **own}, curves
        return self.found

    def _known_values(
        self, expected: Tensor, noise: Tensor, history: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        slope, point = history[:, len(MEASURED) :], self.point_sum.cpu() / len(history)
        return metrics_and_curves(expected, noise, slope, point, self.curvature.item(), self.radius.item())

    def _observe(self, loss: Tensor, rows: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        data = require(self.trainer.datamodule, TrainingRows, "OnlineConvexOptimization")  # type: ignore[attr-defined]
        stream = data.training_rows
        features, target = stream["features"].to(self.previous), stream["target"].to(self.device)
        order, sizes = torch.cat([each.cpu() for each in self.order]), rows.long()
        part = (1 / rows).repeat_interleave(sizes)
        weight = torch.zeros(len(target), dtype=part.dtype).index_add(0, order, part).to(features)

        def losses(u: Tensor) -> Tensor:
            parts = u.split([each.numel() for each in self._learning])
            named = {
                name: part.view_as(each) for name, part, each in zip(self.names, parts, self._learning, strict=True)
            }
            return self.loss(functional_call(self.network, named, (features,)), target)

        def objective(u: Tensor) -> tuple[Tensor, Tensor]:
            u = u.detach().clone().requires_grad_()
            value = weight @ losses(u) + len(loss) * self.ridge / 2 * u.square().sum()
            return value.detach(), torch.autograd.grad(value, u)[0]

        best = least_on_ball(objective, torch.zeros_like(self.previous), self.radius.item(), ACCURACY)
        own = (losses(best.point).detach().cpu()[order] * part).cumsum(0)[sizes.cumsum(0) - 1]
        penalty = self.ridge / 2 * best.point.square().sum().cpu() * torch.arange(1, len(loss) + 1)
        static = loss.cumsum(0) - own - penalty
        return {"static_regret": static[-1], "comparator_gap": best.gap}, {"best of all rounds": static}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rounds"] = {key: [each.cpu() for each in getattr(self, key)] for key in ("history", "order")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history, self.order = (checkpoint["rounds"][key] for key in ("history", "order"))

    def configure_optimizers(self) -> OnlineOptimizer:
        optimizer = self.optimizer(self._learning)
        if not isinstance(optimizer, OnlineOptimizer):
            raise TypeError(f"optimizer must be an OnlineOptimizer of optimistic_omd, got {type(optimizer).__name__}")
        self.radius.fill_(optimizer.radius)
        return optimizer


def whole_order(index: Tensor, size: int) -> Tensor:
    """Gather the stream positions, `[size]`, of a global batch's rows from all ranks, in the order of the stream."""
    if world_size() == 1:
        return index
    places = torch.cat([torch.arange(process, size, world_size()) for process in range(world_size())])
    order = torch.empty(size, dtype=index.dtype, device=index.device)
    order[places.to(index.device)] = gather_rows(index, share_sizes(size))
    return order
