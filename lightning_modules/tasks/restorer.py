"""Validation, test and prediction steps of all methods that restore images."""

from typing import Any

import torch
from torch import Tensor

from datamodules.batches import ImagePairBatch
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.generators import generator_of
from lightning_modules.backbones.resized import upsample_bicubic
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.interfaces import Exported, ExportedInput, ImageColumn, refuse_sigma
from lightning_modules.metrics.image_quality import ImageQuality
from lightning_modules.tasks.writers import ImageWriter, levels_of
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_means

ZOOM = 4
"""Zoom factor of crops: side length of an image divided by the side length of the crop."""


class RestorerSteps(ImageWriter):
    """Mixin with the validation, test and prediction steps of a LightningModule that restores images.

    The module has the attribute `quality = ImageQuality()`. It either has the attribute `inference`, which applies
    `forward` to whole images, or overrides `restore`. Validation and test log metrics that are averaged over images and
    ranks. `test/psnr` and `test/ssim` evaluate the estimates, and `test/noisy_psnr` and `test/noisy_ssim` evaluate the
    degraded images. With several test sets, the names are `test/<set>/psnr` etc. Images without a clean version are
    excluded from the metrics. If degraded images are smaller than the clean images, they are enlarged by bicubic
    interpolation for metrics and figures.

    `predict` writes `restored/<name>.png` into the run directory, or `<name>.tif` for a TIFF file (see `ImageWriter`).
    The file has the type and the scale of the input file. Estimates of 8 or 16 bits are clipped to [0, `data_range`],
    and float32 estimates are not clipped. Test images that are not read from files are written with 16 bits. Packed raw
    images are written as Bayer images whose first pixel is red.
    """

    quality: ImageQuality
    inference: TiledInference
    written, given, settings_name = "restored", "noisy", "restoration_settings.json"

    @evaluate_without_gradients
    def restore(self: Any, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Restore images `[B, C, H, W]` with `forward`, without clipping."""
        return self.inference(self, degraded)

    def estimate(self: Any, batch: ImagePairBatch) -> Tensor:
        """Restore the images of a batch, `[B, C, H, W]`, in float32 or a higher precision, without clipping.

        Random numbers depend only on the seed of the run and the index of the first image of the batch.
        """
        return at_least_float32(self.restore(batch["noisy"], generator_of(run_seed(), int(batch["index"][0]))))

    def other_estimates(self: Any, batch: ImagePairBatch) -> dict[str, Tensor]:
        """Return additional estimates for the images of a test batch, as a dict by name.

        The metrics of these estimates are logged as `test/<name>_psnr` etc.
        """
        return {}

    def validation_step(
        self: Any, batch: ImagePairBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor] | None:
        return self._metrics_of(batch, dataloader_idx) if "clean" in batch else None

    def test_step(self: Any, batch: ImagePairBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Update the metrics with a batch, and return a dict with `estimate`, `[B, C, H, W]`."""
        if "clean" not in batch:
            raise ValueError("testing needs clean images, but the data have none: use predict to write the estimates")
        return self._metrics_of(batch, dataloader_idx, self.other_estimates(batch))

    def _metrics_of(
        self: Any, batch: ImagePairBatch, loader: int, others: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        estimate = self.estimate(batch)
        names = batch.get("name") or [str(position) for position in batch["index"].tolist()]
        with in_full_precision(estimate.device):
            degraded = upsample_bicubic(batch["noisy"], estimate.shape[2:])
            self.quality.update(degraded, estimate, batch["clean"], batch["index"], names, loader, others)
        return {"estimate": estimate}

    def on_validation_epoch_end(self: Any) -> None:
        self._log_quality("val")

    def on_test_epoch_end(self: Any) -> None:
        self._log_quality("test")

    def _log_quality(self: Any, stage: str) -> None:
        log_means(self, stage, self.quality.means(self._set_names(stage) or [""]))

    def image_columns(self: Any, batch: ImagePairBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Return the columns of an image grid: degraded images, estimates, errors, and crops of detailed parts."""
        estimate = self.estimate(batch) if outputs is None else outputs["estimate"]
        clean = batch.get("clean")
        given = "noisy" if batch["noisy"].shape[2:] == estimate.shape[2:] else "bicubic"
        shown = {given: upsample_bicubic(batch["noisy"], estimate.shape[2:]), "estimate": estimate}
        shown |= {} if clean is None else {"clean": clean}
        columns: dict[str, Tensor | ImageColumn] = dict(shown)
        if clean is not None:
            columns["estimate - clean"] = ImageColumn(estimate - clean, difference=True)
        detail = estimate if clean is None else clean
        crops = detailed_crops(torch.cat(list(shown.values()), dim=1), detail).chunk(len(shown), dim=1)
        return columns | {f"{name}, x{ZOOM}": crop for name, crop in zip(shown, crops, strict=True)}

    def export_function(self: Any, sigma: float | None = None) -> Exported:
        """Export, as a function, the restored images that `predict` writes. See `interfaces.Exportable`."""
        refuse_sigma(sigma, self)
        return Exported(
            "restorer",
            lambda degraded: at_least_float32(self.restore(degraded)).clamp(0, 1),
            {"image": ExportedInput("B C H W", description="degraded images; 1 is white, and noise is not clipped")},
            "restored",
            "B C H W",
            "restored images in [0, 1]",
        )

    def pixels(self: Any, batch: ImagePairBatch) -> Tensor:
        """Convert estimates `[B, C, H, W]` to the type and scale of the input images."""
        data_range, dtype = batch.get("data_range", 255), batch.get("dtype")
        estimate = self.estimate(batch)
        if dtype is not None and dtype.is_floating_point:
            return (estimate.double() * data_range).to(dtype)
        return levels_of(estimate, data_range if data_range > 1 or dtype else 65535, dtype)


def detailed_crops(image: Tensor, detail: Tensor) -> Tensor:
    """Crop each image to the window in which `detail` has the largest variance.

    Args:
        image: `[B, C, H, W]`.
        detail: images `[B, C', H, W]`. Their variance determines the windows.

    Returns:
        `[B, C, H / ZOOM, W / ZOOM]`.
    """
    height, width = max(image.shape[2] // ZOOM, 1), max(image.shape[3] // ZOOM, 1)
    grey = detail.cpu().double().mean(dim=1)
    mean, square = (window_sums(each, height, width) / (height * width) for each in (grey, grey.square()))
    best = (square - mean.square()).round(decimals=9).flatten(1).argmax(dim=1)  # the first of equal windows
    crops = []
    for row, place in enumerate(best.tolist()):
        top, left = divmod(place, mean.shape[2])
        crops.append(image[row, :, top : top + height, left : left + width])
    return torch.stack(crops)


def window_sums(image: Tensor, height: int, width: int) -> Tensor:
    """Sum the pixels of images `[B, H, W]` in every window of `height` x `width` pixels, using cumulative sums.

    The result has the shape `[B, H - height + 1, W - width + 1]`.
    """
    total = torch.nn.functional.pad(image.cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0))
    rows = total[:, height:] - total[:, :-height]
    return rows[:, :, width:] - rows[:, :, :-width]
