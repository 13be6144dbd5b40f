"""Measure the curvature of a classifier's loss during training: extreme eigenvalues and spectral density."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.drawing.curves import draw_table
from datamodules.arguments import at_least, one_of
from datamodules.files.whole_files import save_figure, write_csv
from lightning_modules.interfaces import Classifier, Table, TrainingSamples, require, require_data
from lightning_modules.metrics.curvature import (
    BatchNorm,
    CurvatureProduct,
    Matrix,
    curvature_mode,
    refuse_without_curvature,
)
from lightning_modules.metrics.lanczos import Spectrum, lanczos, spectral_density, unit_vector
from lightning_modules.training.chosen_samples import chosen_samples, drawn_places
from lightning_modules.training.logging import log_same
from lightning_modules.training.run_length import is_last_epoch

POINTS, WIDTH = 400, 0.01
"""Number of points of a density; and width of its Gaussians, as a fraction of the range of the eigenvalues."""


class Curvature(Callback):
    """Every n epochs, measure the Hessian of the mean cross-entropy on a fixed subset of the training images.

    The callback logs `train/greatest_eigenvalue` and `train/least_eigenvalue`; a test logs the last values again. In
    the run directory, it writes the eigenvalues over the epochs to `curvature.csv`, and the last spectral density to
    `curvature_density.csv`. It also draws a figure of each table. Dropout and augmentation are disabled during the
    measurement, and the loss excludes weight decay. The subset and the starting vectors are the same on all ranks, and
    results are all-reduced.

    Args:
        every_n_epochs: number of epochs between two measurements; the curvature is always measured after the last
            epoch.
        samples: number of training images in the subset, which is sampled once.
        steps: number of Lanczos steps, each of which computes one matrix-vector product.
        starts: number of starting vectors. The density is averaged over all starting vectors. The reported eigenvalues
            are the most extreme values that were found with any starting vector.
        matrix: `hessian`, or `gauss_newton`, which is positive semidefinite.
        batch_norm: BatchNorm statistics: `batch` uses the statistics of each batch, as in training, and `running` uses
            the running statistics.
        images_at_once: batch size of the matrix-vector products on each rank. The batch size affects the result if
            `batch_norm` is `batch`.
        seed: random seed of the subset and the starting vectors.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        samples: int = 1024,
        steps: int = 20,
        starts: int = 1,
        matrix: Matrix = "hessian",
        batch_norm: BatchNorm = "batch",
        images_at_once: int = 256,
        seed: int = 0,
    ) -> None:
        at_least(1, every_n_epochs=every_n_epochs, samples=samples, starts=starts)
        at_least(2, steps=steps, images_at_once=images_at_once)
        one_of(("hessian", "gauss_newton"), matrix=matrix)
        one_of(("batch", "running"), batch_norm=batch_norm)
        self.every_n_epochs = every_n_epochs
        self.samples = samples
        self.steps = steps
        self.starts = starts
        self.matrix: Matrix = matrix
        self.batch_norm: BatchNorm = batch_norm
        self.images_at_once = images_at_once
        self.seed = seed
        self.rows: list[list[float]] = []
        self.spectra: list[Spectrum] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require(pl_module, Classifier, "Curvature")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        places = drawn_places(require_data(trainer, TrainingSamples, "Curvature"), self.samples, "Curvature", self.seed)
        few = chosen_samples(trainer, places[: 2 * trainer.world_size], "Curvature", 2)
        refuse_without_curvature(pl_module, few, self.batch_norm, "Curvature")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_last_epoch(trainer) and (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        places = drawn_places(data, self.samples, "Curvature", self.seed)
        batches = chosen_samples(trainer, places, "Curvature", self.images_at_once)
        with curvature_mode(pl_module, self.batch_norm):
            product = CurvatureProduct(pl_module, batches, self.matrix)
            starts = [unit_vector(product.size, self.seed, start, like=product.like) for start in range(self.starts)]
            self.spectra = [lanczos(product, start, self.steps) for start in starts]
        values = torch.cat([spectrum.values for spectrum in self.spectra])
        self.rows.append([trainer.current_epoch + 1, float(values.max()), float(values.min())])
        self._log(pl_module, "train")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.rows:
            self._log(pl_module, "test")

    def _log(self, module: LightningModule, stage: str) -> None:
        for name, value in zip(("greatest", "least"), self.rows[-1][1:], strict=True):
            log_same(module, f"{stage}/{name}_eigenvalue", torch.tensor(value, dtype=torch.float64))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir if trainer.loggers else None  # a broadcast, so every rank must read it
        if directory is None or not trainer.is_global_zero or not self.spectra:
            return
        epoch, greatest, least = (list(column) for column in zip(*self.rows, strict=True))
        of_epochs = {"epoch": epoch, "greatest eigenvalue": greatest, "least eigenvalue": least}
        low, high = min(each.values[0] for each in self.spectra), max(each.values[-1] for each in self.spectra)
        width = float(high - low) * WIDTH or 1.0
        at = torch.linspace(float(low) - 4 * width, float(high) + 4 * width, POINTS, dtype=torch.float64)
        density = spectral_density(self.spectra, at, width)
        of_values = {"eigenvalue": at.tolist(), "density": density.tolist()}
        tables = {"curvature": Table(of_epochs), "curvature_density": Table(of_values, logarithmic={"density"})}
        for name, table in tables.items():
            write_csv(Path(directory, f"{name}.csv"), pd.DataFrame(table.columns))
            save_figure(draw_table(table), Path(directory, "figures", f"{name}.png"))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "spectra": [tuple(spectrum) for spectrum in self.spectra]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.spectra = [Spectrum(*each) for each in state_dict["spectra"]]
