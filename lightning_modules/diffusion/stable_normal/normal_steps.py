"""Validation, test and prediction steps for surface normal estimation."""

from typing import Any

import torch
from torch import Tensor

from datamodules.batches import NormalMapBatch
from datamodules.distributed.collectives import run_seed
from datamodules.pixel_ranges import to_unit
from datamodules.randomness.generators import generator_of, split_generator
from lightning_modules.diffusion.stable_normal.angular_error import (
    AngularErrors,
    angular_error,
    angular_spread,
    known_normals,
)
from lightning_modules.diffusion.stable_normal.processing import render_normals
from lightning_modules.full_precision import in_full_precision
from lightning_modules.interfaces import ImageColumn
from lightning_modules.tasks.writers import ImageWriter, levels_of
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_same


class NormalSteps(ImageWriter):
    """Mixin with the validation, test and prediction steps of LightningModules that estimate surface normals.

    The LightningModule must define `normals(image, generators)` and `draws`. The metrics of `AngularErrors` are logged.
    The depth error is logged only if at least one image has a true normal at every pixel. If there are several
    datasets, the name of each metric includes the name of its dataset. `predict` writes `normals/<name>.png`, in which
    a byte v encodes the value 2 v / 255 - 1; see `ImageWriter`.
    """

    written, given, settings_name = "normals", "image", "prediction_settings.json"
    _errors: list[AngularErrors]

    def estimate(self: Any, batch: NormalMapBatch, draw: int = 0) -> Tensor:
        """Estimate the normals of a batch from one noise sample.

        The noise is seeded by the seed of the run, the index of the image and the index `draw` of the noise sample.
        """
        return self.normals(
            batch["image"], [generator_of(run_seed(), int(position), draw) for position in batch["index"].tolist()]
        )

    @evaluate_without_gradients
    def estimate_normals(self: Any, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Estimate the unit normals, `[B, 3, H, W]`, of images in [0, 1], `[B, 3, H, W]`.

        The generator seeds the noise of each image; None uses PyTorch's global generator.
        """
        return self.normals(image, split_generator(len(image), generator))

    def validation_step(self: Any, batch: NormalMapBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        return self._metrics_of(batch, dataloader_idx)

    def test_step(self: Any, batch: NormalMapBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return `normal`, the estimate from the first noise sample, and `spread` if there are several samples."""
        return self._metrics_of(batch, dataloader_idx)

    def on_validation_epoch_start(self: Any) -> None:
        self._begin("val")

    def on_test_epoch_start(self: Any) -> None:
        self._begin("test")

    def _begin(self: Any, stage: str) -> None:
        self._errors = [AngularErrors().to(self.device) for _ in self._set_names(stage) or [""]]

    def _metrics_of(self: Any, batch: NormalMapBatch, loader: int) -> dict[str, Tensor]:
        estimates = torch.stack([self.estimate(batch, draw) for draw in range(self.draws)])
        with in_full_precision(estimates.device):
            self._errors[loader].update(estimates, batch["normal"])
            outputs = {"normal": estimates[0]}
            return outputs | ({"spread": angular_spread(estimates)} if self.draws > 1 else {})

    def on_validation_epoch_end(self: Any) -> None:
        self._log_errors("val")

    def on_test_epoch_end(self: Any) -> None:
        self._log_errors("test")

    def _log_errors(self: Any, stage: str) -> None:
        for name, errors in zip(self._set_names(stage) or [""], self._errors, strict=True):
            for key, value in errors.compute().items():
                missing = {"variance": self.draws == 1, "depth_error": bool(value.isnan())}
                if not missing.get(key):
                    log_same(self, f"{stage}/{name}/{key}" if name else f"{stage}/{key}", value)

    def pixels(self: Any, batch: NormalMapBatch) -> Tensor:
        """Estimate the normals of a batch, and encode them as bytes, `[B, 3, H, W]`."""
        return levels_of(to_unit(self.estimate(batch)), 255)

    def image_columns(self: Any, batch: NormalMapBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show images, normals as colours, and angular errors on a scale from 0 to 90 degrees.

        If there are several noise samples, their spread is also shown, on a scale from 0 to 45 degrees.
        """
        estimate = self.estimate(batch) if outputs is None else outputs["normal"]
        columns: dict[str, Tensor | ImageColumn] = {"image": batch["image"], "estimate": render_normals(estimate)}
        if "normal" in batch:
            counted = known_normals(batch["normal"])
            error = angular_error(estimate, batch["normal"]) * counted
            means = error.sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1)
            captions = [f"{mean:.1f} degrees" for mean in means.tolist()]
            columns["truth"] = render_normals(batch["normal"])
            columns["error"] = ImageColumn((error[:, None] / 90).clamp(max=1), captions)
        if outputs is not None and "spread" in outputs:
            captions = [f"{mean:.1f} degrees" for mean in outputs["spread"].mean(dim=(1, 2)).tolist()]
            columns["spread"] = ImageColumn((outputs["spread"][:, None] / 45).clamp(max=1), captions)
        return columns
