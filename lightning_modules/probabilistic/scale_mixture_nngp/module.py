"""The LightningModule for regression with a t process or a Gaussian process."""

from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules.arguments import one_of, positive
from datamodules.batches import TableBatch
from datamodules.files.whole_files import write_csv
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import Table, TrainingRows, require_data
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.probabilistic.scale_mixture_nngp.architectures import NetworkKernel, Positive
from lightning_modules.probabilistic.scale_mixture_nngp.posterior import (
    InverseGammaLaw,
    Scale,
    Seen,
    factorise_kernel,
    predict_process,
)
from lightning_modules.training.logging import log_training
from lightning_modules.training.requirements import require_all_rows, require_one_process

RELEASED_JITTER = 1e-6
"""Jitter that the authors' code adds to (b / a) K when computing the quadratic form for predictions."""


class ScaleMixtureRegression(MethodModule):
    """Fit the process of an infinitely wide network to a regression problem, optionally with a random scale.

    Args:
        kernel: kernel of the infinitely wide network.
        scale: distribution of the scale; `InverseGamma` gives a t process, and `FixedScale` gives a Gaussian process.
        noise_variance: initial value of eps, the variance of the target noise at scale 1.
        formulas: formulas for predictions: `clean` includes the noise variance; `released` selects the formulas of the
            authors' code, which omit the noise variance.
        shift: factor by which all targets are multiplied after training, in order to compute `test/shifted_nll`.
        optimizer: optimizer of the trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        kernel: NetworkKernel,
        scale: Scale,
        noise_variance: float = 1e-6,
        formulas: Literal["clean", "released"] = "clean",
        shift: float = 3.0,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(noise_variance=noise_variance, shift=shift)
        one_of(("clean", "released"), formulas=formulas)
        self.kernel = kernel
        self.scale = scale
        self.noise_variance = Positive(noise_variance)
        self.formulas = formulas
        self.shift = shift
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.tables: dict[str, Table] = {}
        self._known: tuple[Tensor, Seen, Tensor] | None = None
        self._probabilities: dict[str, list[Tensor]] = {}
        self._predictions: list[dict[str, Tensor]] = []

    def setup(self, stage: str) -> None:
        name = type(self).__name__
        require_double(self.trainer, name)
        require_one_process(self.trainer, name)
        require_all_rows(self.trainer, name)

    def training_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch["features"], batch["target"]
        known = factorise_kernel(self.kernel(x, x), y, self.noise_variance())
        log_density = self.scale.law().log_density(known.quadratic, known.log_det, len(y))
        return {"loss": log_training(self, batch, -log_density / len(y))}

    # Prediction

    def condition(self, x: Tensor, y: Tensor) -> None:
        """Condition the process on training rows with features `[n, D]` and standardised targets `[n]`."""
        kernel = self.kernel(x, x)
        eps = self.noise_variance()
        if self.formulas == "clean":
            known = factorise_kernel(kernel, y, eps)
            quadratic = known.quadratic
        else:
            known = factorise_kernel(kernel, y, eps * kernel.diagonal().mean())
            law = self.scale.law()
            ratio = law.a / law.b if isinstance(law, InverseGammaLaw) else torch.ones_like(eps)
            quadratic = factorise_kernel(kernel, y, RELEASED_JITTER * ratio).quadratic
        self._known = x, known, quadratic

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For features `[m, D]`, predict the mean and the variance at scale 1 of the standardised targets, both `[m]`.

        Call `condition` before this method.
        """
        assert self._known is not None
        seen_x, known, _ = self._known
        mean, variance = predict_process(known, self.kernel(seen_x, x), self.kernel.diagonal(x))
        return mean, variance + (self.noise_variance() if self.formulas == "clean" else 0)

    def _condition_on_training_rows(self) -> None:
        rows = require_data(self.trainer, TrainingRows, type(self).__name__).training_rows
        x, y = (rows[key].to(self.device, torch.float64) for key in ("features", "target"))
        self.condition(x, y)

    def on_validation_epoch_start(self) -> None:
        self._condition_on_training_rows()

    def on_test_epoch_start(self) -> None:
        self._condition_on_training_rows()
        self._probabilities = {"as trained": [], f"times {self.shift:g}": []}

    def on_predict_epoch_start(self) -> None:
        self._condition_on_training_rows()
        self._predictions = []

    def validation_step(self, batch: TableBatch, batch_idx: int) -> None:
        mean, variance = self(batch["features"])
        nll, _ = self._score(batch, mean, variance, 1.0)
        self._log("val/nll", nll, batch)

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        mean, variance = self(batch["features"])
        factors = (1.0, self.shift)
        for name, factor, kept in zip(("nll", "shifted_nll"), factors, self._probabilities.values(), strict=True):
            nll, probability = self._score(batch, mean, variance, factor)
            self._log(f"test/{name}", nll, batch)
            kept.append(probability)
        square = ((batch["target"] - mean) * batch.get("target_std", 1)).square()
        self._log("test/mse", square.mean(), batch)

    def _score(self, batch: TableBatch, mean: Tensor, variance: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """Compute the negative log density of targets after multiplying all targets by `factor`.

        Return the mean negative log density over targets in the original units, and each target's cumulative
        probability.
        """
        assert self._known is not None
        seen_x, _, quadratic = self._known
        law = self.scale.law().given_values(factor**2 * quadratic, len(seen_x))
        error = factor * (batch["target"] - mean)
        nll = -law.log_density(error.square() / variance, variance.log(), 1)
        unit = factor * torch.ones_like(error[0]) / batch.get("target_std", 1)
        return nll.mean() - unit.log(), law.cumulative(error / variance.sqrt())

    def _log(self, name: str, value: Tensor, batch: TableBatch) -> None:
        self.log(name, value, on_step=False, on_epoch=True, batch_size=len(batch["index"]))

    def on_test_epoch_end(self) -> None:
        level = torch.linspace(0, 1, 51, dtype=torch.float64)
        columns: dict[str, Any] = {
            "probability of a central interval": [],
            "targets": [],
            "share of targets inside": [],
        }
        for name, parts in self._probabilities.items():
            distance = (2 * torch.cat(parts) - 1).abs()
            share = (distance[None] <= level[:, None]).double().mean(1)
            for column, values in zip(columns.values(), (level.tolist(), [name] * 51, share.tolist()), strict=True):
                column += values
        self.tables = {"calibration": Table(columns)}

    def predict_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        """Predict the mean and the standard deviation of each target in the original units.

        After the last batch, the predictions are written to `predictions.csv`.
        """
        assert self._known is not None
        mean, variance = self(batch["features"])
        law = self.scale.law().given_values(self._known[2], len(self._known[0]))
        unit = batch.get("target_std", torch.ones_like(mean))
        std = (law.mean().to(variance) * variance).sqrt() * unit
        self._predictions.append(
            {"index": batch["index"], "mean": mean * unit + batch.get("target_mean", 0), "std": std}
        )
        return self._predictions[-1]

    def on_predict_epoch_end(self) -> None:
        if self.trainer.log_dir is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            columns = {key: torch.cat([part[key] for part in self._predictions]).cpu() for key in self._predictions[0]}
            write_csv(Path(self.trainer.log_dir, "predictions.csv"), pd.DataFrame(columns))

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self))
