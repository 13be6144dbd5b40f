"""Validation, test and prediction steps for video restoration, and image grids of clips."""

from typing import Any

import torch
from torch import Tensor

from datamodules.batches import ClipBatch
from lightning_modules.backbones.resized import upsample_bicubic
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.interfaces import ImageColumn
from lightning_modules.metrics.image_quality import WINDOW, ImageQuality
from lightning_modules.restoration.negvsr.written_clips import ClipWriter
from lightning_modules.training.logging import log_means


def enlarged_clip(clip: Tensor, size: torch.Size) -> Tensor:
    """Upsample clips `[B, T, C, h, w]` to a given frame size by bicubic interpolation."""
    return upsample_bicubic(clip.flatten(0, 1), size).unflatten(0, clip.shape[:2])


def add_noise_sequences(clip: Tensor, noise: Tensor) -> Tensor:
    """Add noise sequences to clips, both `[B, T, C, h, w]`.

    Before the addition, the mean of each noise sequence over frames and pixels is subtracted from it.

    The sum is clipped to [0, 1], as in a camera.
    """
    return (clip + noise - noise.mean(dim=(1, 3, 4), keepdim=True)).clamp(0, 1)


def strips(clip: Tensor) -> Tensor:
    """Concatenate the frames of clips `[B, T, C, H, W]` horizontally into images `[B, C, H, T W]`."""
    return clip.permute(0, 2, 3, 1, 4).flatten(3)


def slices(clip: Tensor, height: int) -> Tensor:
    """Render x-t slices of clips `[B, T, C, H, W]`: the middle pixel rows of successive frames, one below the other.

    Returns:
        Images `[B, C, height, W]`. All frames have the same number of rows in a slice, up to a difference of one row.
    """
    times = torch.arange(height, device=clip.device) * clip.shape[1] // height
    return clip[:, :, :, clip.shape[3] // 2].transpose(1, 2)[:, :, times]


class ClipRestorerSteps(ClipWriter):
    """Validation, test and prediction steps for `ClipBatch`es.

    A subclass sets `quality = ImageQuality()` and implements `restore`. Metrics are averaged over the frames of a clip,
    then over all clips. `test/psnr` and `test/ssim` evaluate the estimate; `test/noisy_psnr` and `test/noisy_ssim`
    evaluate the bicubically upsampled input. If the test data contain noise sequences n, `test/disturbed_psnr` and
    `test/disturbed_ssim` evaluate the estimate F(x + n) from the clip with added noise, and `test/drift` is the mean of
    |F(x + n) - F(x)|. Validation skips clips without a clean version.
    """

    quality: ImageQuality

    def estimate(self: Any, batch: ClipBatch) -> Tensor:
        """Restore a batch. The result is `[B, T, C, H, W]`, in float32 or a higher precision, and not clipped."""
        return at_least_float32(self.restore(batch["noisy"]))

    def validation_step(self: Any, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if "clean" in batch:
            self._metrics_of(batch, dataloader_idx)

    def test_step(self: Any, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return the dict entry `estimate`, `[B, T, C, H, W]`.

        If the batch has noise sequences, the entry `disturbed` is the estimate for the clips with added noise.

        Raises:
            ValueError: if the batch has no clean clips.
        """
        if "clean" not in batch:
            raise ValueError("test needs clean clips, but the data have none: use predict to write estimates")
        return self._metrics_of(batch, dataloader_idx)

    def _metrics_of(self: Any, batch: ClipBatch, loader: int) -> dict[str, Tensor]:
        outputs = {"estimate": self.estimate(batch)}
        if "noise" in batch:
            outputs["disturbed"] = at_least_float32(self.restore(add_noise_sequences(batch["noisy"], batch["noise"])))
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
        """Return the input, restored and clean clips as strips of frames and as x-t slices."""
        outputs = outputs or {"estimate": self.estimate(batch)}
        size = outputs["estimate"].shape[3:]
        shown = {"given": enlarged_clip(batch["noisy"], size), "restored": outputs["estimate"]}
        if "disturbed" in outputs:
            noisy = add_noise_sequences(batch["noisy"], batch["noise"])
            shown |= {"with noise": enlarged_clip(noisy, size), "with noise, restored": outputs["disturbed"]}
        shown |= {"clean": batch["clean"]} if "clean" in batch else {}
        columns: dict[str, Tensor | ImageColumn] = {name: strips(clip) for name, clip in shown.items()}
        return columns | {f"{name}, x-t": slices(clip, size[0]) for name, clip in shown.items()}
