"""Measure the sharpness of restored images by gradients and power spectra."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.drawing.curves import draw_table
from datamodules.distributed.collectives import all_reduce_sum
from datamodules.files.whole_files import save_figure, write_csv
from lightning_modules.backbones.resized import upsample_bicubic
from lightning_modules.interfaces import ImageMeasurer, Table, require
from lightning_modules.metrics.image_quality import as_measured
from lightning_modules.training.logging import log_same

RINGS = 32
"""Number of equally wide frequency bins between 0 and half a cycle per pixel."""
KINDS = ("noisy", "estimate", "clean")


def average_gradient(grey: Tensor) -> Tensor:
    """Compute the average gradient of each of B images `[B, H, W]`; the result is `[B]`.

    The average gradient is sum sqrt((g_x^2 + g_y^2) / 2) / ((W - 1) (H - 1)), where the gradients g_x and g_y are
    computed by central differences.
    """
    down, right = torch.gradient(grey, dim=(1, 2))
    height, width = grey.shape[1:]
    return ((down.square() + right.square()) / 2).sqrt().sum(dim=(1, 2)) / ((height - 1) * (width - 1))


def radial_power(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the power of images `[B, H, W]`, less their mean, over rings of frequencies; count the frequencies per ring.

    Returns:
        Sums and counts over all images, each `[RINGS]`. Let F be the Fourier transform; the power is |F|^2 / (H W).
    """
    height, width = grey.shape[1:]
    power = torch.fft.fft2(grey - grey.mean(dim=(1, 2), keepdim=True)).abs().square() / (height * width)
    along_height, along_width = (torch.fft.fftfreq(n, device=grey.device, dtype=grey.dtype) for n in (height, width))
    radius = (along_height[:, None].square() + along_width.square()).sqrt()
    ring = (radius * 2 * RINGS).long().flatten()
    inside = (ring < RINGS).to(grey.dtype)
    ring = ring.clamp(max=RINGS - 1)
    sums = torch.zeros(RINGS, dtype=grey.dtype, device=grey.device).index_add_(
        0, ring, power.sum(dim=0).flatten() * inside
    )
    counts = torch.zeros_like(sums).index_add_(0, ring, len(grey) * inside)
    return sums, counts


class Sharpness(Callback):
    """Compare gradients and power spectra of restored, clean and degraded test images.

    Images are converted to grey with 256 levels. The callback logs the mean gradients `test/average_gradient` (restored
    images), `test/clean_average_gradient` and `test/noisy_average_gradient`, and `test/gradient_error`, the absolute
    difference of the mean gradients of restored and clean images. It also logs the spectrum errors
    `test/spectrum_error` (restored images) and `test/noisy_spectrum_error` (degraded images). A spectrum error is the
    root mean square, over frequencies, of the difference between the log mean power of the images and that of the clean
    images. The spectra are written to `spectrum.csv` and `figures/spectrum.png` in the run directory.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require(pl_module, ImageMeasurer, "Sharpness")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # for each kind of image: power and count of each ring, sum of gradients, number of images
        self.sums = {kind: torch.zeros(2 * RINGS + 2, dtype=torch.float64) for kind in KINDS}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        images = {kind: outputs[kind] if kind == "estimate" else batch[kind] for kind in KINDS}
        for kind, image in images.items():
            grey = as_measured(upsample_bicubic(image, images["clean"].shape[2:]), "rounded").mean(dim=1)
            gradients = torch.stack([average_gradient(grey).sum(), grey.new_tensor(len(grey))])
            self.sums[kind] += torch.cat([*radial_power(grey), gradients]).double().cpu()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = {kind: all_reduce_sum(sums.to(pl_module.device)).cpu() for kind, sums in self.sums.items()}
        filled = total["clean"][RINGS : 2 * RINGS] > 0
        power = {kind: (sums[:RINGS] / sums[RINGS : 2 * RINGS])[filled] for kind, sums in total.items()}
        gradient = {kind: sums[-2] / sums[-1] for kind, sums in total.items()}
        log_same(pl_module, "test/gradient_error", (gradient["estimate"] - gradient["clean"]).abs())
        for kind, prefix in (("estimate", ""), ("noisy", "noisy_"), ("clean", "clean_")):
            log_same(pl_module, f"test/{prefix}average_gradient", gradient[kind])
            if kind != "clean":
                error = (power[kind].log() - power["clean"].log()).square().mean().sqrt()
                log_same(pl_module, f"test/{prefix}spectrum_error", error)
        directory = trainer.log_dir  # a broadcast, so every rank must read it
        if directory is None or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        frequency = ((torch.arange(RINGS) + 0.5) / (2 * RINGS))[filled].tolist()
        columns = {
            "cycles per pixel": frequency * len(KINDS),
            "mean power": torch.cat([power[kind] for kind in KINDS]).tolist(),
            "images": [kind for kind in KINDS for _ in frequency],
        }
        table = Table(columns, logarithmic=("cycles per pixel", "mean power"))
        write_csv(Path(directory, "spectrum.csv"), pd.DataFrame(columns))
        save_figure(draw_table(table), Path(directory, "figures", "spectrum.png"))
