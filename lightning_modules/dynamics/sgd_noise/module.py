"""The LightningModule that trains by SGD at a given temperature until all points are fitted."""

import copy
import math
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, positive
from datamodules.batches import TableBatch, global_batch_size, loss_weight
from datamodules.distributed.collectives import run_seed
from lightning_modules.distributed.global_rows import global_rows
from lightning_modules.dynamics.sgd_noise.descent import DescentPoints, Dynamics, Loss, run_iterations
from lightning_modules.dynamics.sgd_noise.observables import (
    along_and_across,
    final_observables,
    fit_statistics,
    kernel_statistics,
    note_times,
    outputs,
    squared_changes,
    tangent_kernel,
)
from lightning_modules.full_precision import in_full_precision
from lightning_modules.interfaces import RowBatches, Table, TrainingSamples, data_with
from lightning_modules.method_module import MethodModule
from lightning_modules.training.logging import log_same
from lightning_modules.training.run_length import is_last_epoch

UNFIT_PRECISION = ("16-mixed", "16-true", "bf16-true")
GROWTH = 1.25
"""Minimum ratio between the iteration counts of two successive table rows; the last row may be closer."""
OF_TRAINING = {
    "loss": "training_loss",
    "error": "training_error",
    "margin": "training_margin",
    "unfitted": "points_left",
}
"""Mapping from observables of the training points to the names under which `test` logs them."""


class SGDNoise(MethodModule):
    """Train a network on two classes by SGD at a given temperature until all training points are fitted.

    Args:
        network: network that maps features `[B, ...]` to one output `[B, 1]`, such as
            `lightning_modules.networks.ntk_mlp.NTKMLP`.
        temperature: temperature T, the ratio of the learning rate to the batch size.
        alpha: scale of the output, which is the inverse of the margin; large values give lazy training. Infinity means
            zero margin, and requires a network whose weights are all initialised to zero.
        batch_size: global batch size B.
        iterations_per_step: number of SGD iterations per training step, not including skipped iterations.
        kernel_points: number of training points on which the tangent kernel is measured; 0 disables the measurement.
        loss: function phi of the loss, `hinge`, `quadratic_hinge` (the square of the hinge) or `soft_hinge`.
        dynamics: `sgd`, or `sde` for full-batch descent with Gaussian noise of the same strength as the noise of SGD.
    """

    iteration: Tensor
    changed: Tensor

    def __init__(
        self,
        network: nn.Module,
        temperature: float,
        alpha: float = 1.0,
        batch_size: int = 1,
        iterations_per_step: int = 1000,
        kernel_points: int = 128,
        loss: Loss = "hinge",
        dynamics: Dynamics = "sgd",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        positive(temperature=temperature, alpha=alpha)
        at_least(1, batch_size=batch_size, iterations_per_step=iterations_per_step)
        at_least(0, kernel_points=kernel_points)
        one_of(get_args(Loss), loss=loss)
        one_of(get_args(Dynamics), dynamics=dynamics)
        if math.isinf(alpha) and loss != "hinge":
            raise ValueError(f"alpha is infinite, which needs loss hinge, got {loss}")
        if math.isinf(alpha) and any(bool(each.any()) for each in network.parameters() if not each.is_meta):
            raise ValueError("alpha is infinite, which needs a network with zero weights: set network.initial_std to 0")
        self.network = network
        self.initial = copy.deepcopy(network).requires_grad_(False)
        self.temperature = temperature
        self.alpha = alpha
        self.batch_size = batch_size
        self.iterations_per_step = iterations_per_step
        self.kernel_points = kernel_points
        self.loss: Loss = loss
        self.dynamics: Dynamics = dynamics
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.register_buffer("changed", torch.zeros((), dtype=torch.int64))
        self._points: DescentPoints | None = None
        self._direction: Tensor | None = None
        self._kernel: Tensor | None = None
        self._left: int | None = None  # number of points that were not fitted at the end of the last epoch
        self._diverged = False
        self._rows: list[dict[str, float]] = []
        self._times: dict[str, float] = {}
        self._changes: list[list[float]] = []

    @property
    def rate(self) -> float:
        """The learning rate dt = T B."""
        return self.temperature * self.batch_size

    def forward(self, features: Tensor) -> Tensor:
        """Predict F(x) = f(w, x) - f(w_0, x), `[B]`."""
        return (self.network(features) - self.initial(features)).flatten()

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        if (precision := str(self.trainer.precision)) in UNFIT_PRECISION:
            raise ValueError(f"trainer.precision {precision} is too low, or uses loss scaling: use 64-true or 32-true")
        rows, samples = data_with(self.trainer, RowBatches), data_with(self.trainer, TrainingSamples)
        if rows is not None and not rows.whole:
            raise ValueError("data.batch_size must be unset: model.batch_size points are sampled from the whole set")
        num_points = self.batch_size if samples is None else samples.num_train_samples
        if num_points < self.batch_size:
            raise ValueError(
                f"model.batch_size must be at most {num_points}, the number of training points, got {self.batch_size}"
            )

    # Training

    def on_fit_start(self) -> None:
        self._points = self._kernel = None  # both may still be set by an earlier fit

    def training_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        with in_full_precision(self.device):
            points = self._points = self._points or self._collect(batch)
            iterations = (run_seed(), self.iteration, self.iterations_per_step, self._left, self.batch_size, self.rate)
            course = run_iterations(self.network, points, self.dynamics, *iterations, self.alpha, self.loss)
        self.changed.copy_(torch.where(course.changed > 0, self.iteration + course.changed, self.changed))
        self.iteration += course.passed
        self.optimizers().step()  # type: ignore[union-attr] # no gradients; it only advances the global step
        # A loss that is not finite is treated as a result: training stops at the end of the epoch without an error.
        return {"loss": course.loss.nan_to_num(nan=torch.finfo(course.loss.dtype).max)}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), lr=self.rate)

    def _collect(self, batch: TableBatch) -> DescentPoints:
        """Gather the training set from all ranks, in dataset order."""
        whole = {key: global_rows(batch[key], global_batch_size(batch)) for key in ("index", "features", "target")}
        order = whole["index"].argsort()
        features, sign = whole["features"][order], whole["target"][order]
        self._direction = batch.get("w_true")
        return DescentPoints(features, sign, outputs(self.initial, features))

    def on_train_epoch_end(self) -> None:
        assert self._points is not None
        with in_full_precision(self.device):
            signed = self._points.sign * (outputs(self.network, self._points.features) - self._points.initial)
            found = fit_statistics(signed, self.alpha, self.loss)
            found = {"iterations": self.iteration, "changed": self.changed, **found}
            row = {name: float(value) for name, value in found.items()}
            note_times(self._times, self.rate * row["iterations"], row["unfitted"] / len(signed))
            for name in ("loss", "error", "unfitted"):
                log_same(self, f"train/{name}", row[name])
            self._left, self._diverged = int(row["unfitted"]), not math.isfinite(row["loss"])
            self.trainer.should_stop = self.trainer.should_stop or self._left == 0 or self._diverged
            if self._diverged:
                return
            kept = self._rows[-1]["iterations"] if self._rows else 0
            if is_last_epoch(self.trainer) or not self._rows or row["iterations"] >= GROWTH * kept:
                self._keep(row, signed)

    def _keep(self, row: dict[str, float], signed: Tensor) -> None:
        """Measure the weights and the kernel, and append a row to the tables."""
        assert self._points is not None
        changes, before = (each.tolist() for each in squared_changes(self.network, self.initial))
        row = {"time": self.rate * row["iterations"], "training_time": self.rate * row.pop("changed"), **row}
        row["weight_change"] = math.sqrt(sum(changes))
        if any(before):
            row["relative_weight_change"] = math.sqrt(sum(changes) / sum(before))
        if self.kernel_points:
            features, sign = (each[: self.kernel_points] for each in self._points[:2])
            self._kernel = tangent_kernel(self.initial, features) if self._kernel is None else self._kernel
            kernel = tangent_kernel(self.network, features)
            found = kernel_statistics(kernel, self._kernel, signed[: len(sign)], sign, self.alpha, self.loss)
            row |= {name: float(value) for name, value in found.items()}
        if self._direction is not None and len(changes) == 1:
            row["signal"], row["noise"] = along_and_across(self.network, self.initial, self._direction)
        self._rows.append(row)
        self._changes.append(changes)

    # Results

    @property
    def tables(self) -> Mapping[str, Table]:
        """Return tables of the training history, and of the squared change |w - w_0|^2 of each parameter over time."""
        if not self._rows:
            return {}
        columns = {name: [row[name] for row in self._rows] for name in self._rows[0]}
        names = ("loss", "unfitted", "weight_change", *(["kernel_change"] if self.kernel_points else []))
        course = Table(columns, {name: columns[name] for name in names}, logarithmic={"time", *names})
        tensors = [name for name, _ in self.network.named_parameters()]
        parts = {
            "tensor": tensors * len(columns["time"]),
            "time": [time for time in columns["time"] for _ in tensors],
            "squared_change": [change for row in self._changes for change in row],
        }
        return {"course": course, "weights": Table(parts, logarithmic={"time", "squared_change"})}

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        if self._diverged:
            return
        with in_full_precision(self.device):
            signed = batch["target"] * self(batch["features"])
            found = fit_statistics(signed, self.alpha, self.loss)
        found["unfitted"] = found["unfitted"] / len(signed)
        for name in ("loss", "error", "unfitted"):
            value = loss_weight(batch) * found[name]
            self.log(f"test/{name}", value, on_epoch=True, batch_size=global_batch_size(batch), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log the last measurements of training; if not all points were fitted, the training time is infinite.

        If training diverged, only `test/diverged` is logged; `compare` can handle the missing metrics.
        """
        log_same(self, "test/diverged", float(self._diverged))
        last = final_observables(self._rows[-1], self._times) if self._rows and not self._diverged else {}
        for name, value in last.items():
            if name not in ("time", "iterations"):
                log_same(self, f"test/{OF_TRAINING.get(name, name)}", torch.tensor(value, dtype=torch.float64))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        names = ("_rows", "_times", "_changes", "_left", "_diverged")
        checkpoint["course"] = {name: getattr(self, name) for name in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, value in checkpoint["course"].items():
            setattr(self, name, value)
