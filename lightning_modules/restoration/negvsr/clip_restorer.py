"""Validation and test of a module that restores clips, and pictures of what it does with them."""

from typing import Any

import torch
from torch import Tensor

from datamodules.batches import ClipBatch
from lightning_modules.backbones.resized import enlarged
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.interfaces import ImageColumn
from lightning_modules.metrics.image_quality import WINDOW, ImageQuality
from lightning_modules.restoration.negvsr.written_clips import ClipWriter
from lightning_modules.training.logging import log_means


def enlarged_clip(clip: Tensor, size: torch.Size) -> Tensor:
    """Enlarge clips `[B, T, C, h, w]` by bicubic interpolation to frames of a size."""
    return enlarged(clip.flatten(0, 1), size).unflatten(0, clip.shape[:2])


def disturbed(clip: Tensor, noise: Tensor) -> Tensor:
    """Add sequences of noise, without their means over frames and pixels, to clips, both `[B, T, C, h, w]`.

    The result is clipped to [0, 1], as a camera would.
    """
    return (clip + noise - noise.mean(dim=(1, 3, 4), keepdim=True)).clamp(0, 1)


def strips(clip: Tensor) -> Tensor:
    """Lay the frames of clips `[B, T, C, H, W]` side by side, `[B, C, H, T W]`."""
    return clip.permute(0, 2, 3, 1, 4).flatten(3)


def slices(clip: Tensor, height: int) -> Tensor:
    """Show the middle row of pixels of clips `[B, T, C, H, W]` over time, each frame as equally many rows of a picture.

    Returns:
        `[B, C, height, W]`.
    """
    times = torch.arange(height, device=clip.device) * clip.shape[1] // height
    return clip[:, :, :, clip.shape[3] // 2].transpose(1, 2)[:, :, times]


class ClipRestorerSteps(ClipWriter):
    """Give a LightningModule validation, test and prediction of `ClipBatch`es.

    The module owns `quality = ImageQuality()` and says what `restore` is. A clip's measure is the mean of its frames';
    logged are `test/psnr` and `test/ssim` of the estimate, and `test/noisy_psnr` and `test/noisy_ssim` of the given
    clip, enlarged by bicubic interpolation, means over clips and all processes. Where the test has sequences of noise,
    `test/disturbed_psnr` and `test/disturbed_ssim` are of the estimate for the clip with this noise, and `test/drift`
    is the mean of |F(x + n) - F(x)|. Clips without clean ones are not measured.
    """

    quality: ImageQuality

    def estimated(self: Any, batch: ClipBatch) -> Tensor:
        """Restore a batch, `[B, T, C, H, W]`, in float32 or better, not clipped."""
        return at_least_float32(self.restore(batch["noisy"]))

    def validation_step(self: Any, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if "clean" in batch:
            self._measured(batch, dataloader_idx)

    def test_step(self: Any, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return `estimate`, `[B, T, C, H, W]`, and, where there is noise, that for the disturbed clip.

        Raises:
            ValueError: if there are no clean clips.
        """
        if "clean" not in batch:
            raise ValueError("test measures against clean clips, and the data have none: predict writes the estimates")
        return self._measured(batch, dataloader_idx)

    def _measured(self: Any, batch: ClipBatch, loader: int) -> dict[str, Tensor]:
        outputs = {"estimate": self.estimated(batch)}
        if "noise" in batch:
            outputs["disturbed"] = at_least_float32(self.restore(disturbed(batch["noisy"], batch["noise"])))
        clean, shape = batch["clean"].flatten(0, 1), batch["clean"].shape[:2]
        with in_full_precision(clean.device):
            compared = {"": outputs["estimate"], "noisy_": enlarged_clip(batch["noisy"], batch["clean"].shape[3:])}
            compared |= {"disturbed_": outputs["disturbed"]} if "disturbed" in outputs else {}
            values = {
                prefix + name: measure(clip.flatten(0, 1), clean, self.quality.protocol).view(shape).mean(dim=1)
                for name, measure in self.quality.measures.items()
                if name != "ssim" or min(clean.shape[2:]) >= WINDOW
                for prefix, clip in compared.items()
            }
            if "disturbed" in outputs:
                values["drift"] = (outputs["disturbed"] - outputs["estimate"]).abs().mean(dim=(1, 2, 3, 4))
        names = batch.get("name") or [str(position) for position in batch["index"].tolist()]
        self.quality.add(values, batch["index"], names, loader)
        return outputs

    def on_validation_epoch_end(self: Any) -> None:
        self._log_quality("val")

    def on_test_epoch_end(self: Any) -> None:
        self._log_quality("test")

    def _log_quality(self: Any, stage: str) -> None:
        log_means(self, stage, self.quality.means(self._set_names(stage) or [""]))

    def image_columns(self: Any, batch: ClipBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show clips as strips of frames, and their middle row over time: as given, restored and clean."""
        outputs = outputs or {"estimate": self.estimated(batch)}
        size = outputs["estimate"].shape[3:]
        shown = {"given": enlarged_clip(batch["noisy"], size), "restored": outputs["estimate"]}
        if "disturbed" in outputs:
            noisy = disturbed(batch["noisy"], batch["noise"])
            shown |= {"with noise": enlarged_clip(noisy, size), "with noise, restored": outputs["disturbed"]}
        shown |= {"clean": batch["clean"]} if "clean" in batch else {}
        columns: dict[str, Tensor | ImageColumn] = {name: strips(clip) for name, clip in shown.items()}
        return columns | {f"{name}, x-t": slices(clip, size[0]) for name, clip in shown.items()}
