"""ELD trains a denoiser of low-light raw images on clean images with noise from a physical model of the camera.

A packed long exposure x in [0, 1] is darkened by a light factor f ~ U(100, 300). Then the noise model N of the
calibrated sensor adds noise, and the image is brightened again: y = f N(x / f). The noise is sampled anew in each
epoch. Shot, read and row noise, quantisation and colour bias are sampled jointly with the gain (see
`datamodules.corruptions.image_noise.Sensor`). A network F minimises

    L = mean |F(clip(y, 0, 1)) - x|.

At test time, the inputs of F are short exposures, multiplied by the ratio of the exposure times and clipped to [0, 1].
This ratio is not exact. Before metrics are computed, each estimate is therefore matched to the brightness of the ground
truth,

    corrected = a p,    p = clip(F, 0, 1),    a = <p, x> / <p, p> over all values with x != 1.

SSIM uses a uniform 7 x 7 window and sample variances.

The authors' sampler of camera parameters is not public. The sampler used here follows the authors' parameter tables and
their answers to questions. The gain is sampled from the camera's range of gains, whereas the authors' public code for
baselines uses gains from 0.1 to 30 for every camera.

Source: Wei, Fu, Zheng and Yang, Physics-based Noise Modeling for Extreme Low-light Photography, TPAMI 2022, arXiv
2108.02158; the conference version is arXiv 2003.12751.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import ImagePairBatch
from datamodules.files.xtrans import COLOURS
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality, as_measured, psnr
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training

WINDOW = 7
"""Side of the SSIM window, in pixels."""


def illuminance_corrected(image: Tensor, clean: Tensor) -> Tensor:
    """Clip images to [0, 1]; scale each image to its clean image, by least squares over unsaturated clean values.

    Args:
        image: `[B, C, H, W]`.
        clean: `[B, C, H, W]` in [0, 1].

    Returns:
        `[B, C, H, W]`; black images stay black.
    """
    image = image.clamp(0, 1)
    counted = image * (clean != 1)
    inner, norm = ((counted * other).sum(dim=(1, 2, 3), keepdim=True) for other in (clean, image))
    return image * torch.where(norm > 0, inner / norm, 1)


def corrected_psnr(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "clipped") -> Tensor:
    """Compute the PSNR after brightness correction. Estimates are always clipped, whatever `protocol` says."""
    double = as_measured(image, "unclipped"), as_measured(clean, "unclipped")
    return psnr(illuminance_corrected(*double), double[1], "clipped")


def corrected_ssim(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "clipped") -> Tensor:
    """Compute each image's SSIM after brightness correction, as in ELD's tables.

    In contrast to `ssim`, the window is uniform, and the variances are sample variances. Only windows that lie within
    the image are used. The result, `[B]`, is the mean over windows and channels. The argument `protocol` is ignored.
    """
    x, y = as_measured(image, "unclipped"), as_measured(clean, "unclipped")
    x = illuminance_corrected(x, y).clamp(0, 1)

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, WINDOW, stride=1)

    of_sample = WINDOW**2 / (WINDOW**2 - 1)
    x_mean, y_mean = mean(x), mean(y)
    variances = of_sample * (mean(x * x) - x_mean**2 + mean(y * y) - y_mean**2)
    covariance = of_sample * (mean(x * y) - x_mean * y_mean)
    luminance = (2 * x_mean * y_mean + 0.01**2) / (x_mean**2 + y_mean**2 + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean(dim=(1, 2, 3))


BAYER = "RGBG"
"""Colour of each channel of a packed raw image."""


def average_colours(packed: Tensor) -> Tensor:
    """Average the channels of each colour in raw images `[B, 4, H, W]` or `[B, 9, H, W]`; return `[B, 3, H, W]`."""
    colours = BAYER if packed.shape[1] == len(BAYER) else COLOURS
    of_colour = ([place for place, each in enumerate(colours) if each == colour] for colour in "RGB")
    return torch.stack([packed[:, places].mean(dim=1) for places in of_colour], dim=1)


def preview(image: Tensor, reference: Tensor) -> Tensor:
    """Render packed raw images in colour: white balance by the channel means of a reference, then gamma 2.2.

    Args:
        image: packed raw images, `[B, 4, H, W]` with channels R, G, B, G, at half the sensor's resolution. For an
            X-Trans sensor, images are `[B, 9, H, W]`, at a third of the sensor's resolution.
        reference: packed raw images of the same shape; their channel means give the white balance.

    Returns:
        `[B, 3, H, W]` in [0, 1].
    """
    means = average_colours(reference).clamp(0, 1).mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    return (average_colours(image).clamp(0, 1) * means[:, 1:2] / means).clamp(0, 1) ** (1 / 2.2)


def srgb(image: Tensor, rendering: Tensor) -> Tensor:
    """Render packed raw images in sRGB, as in the paper: white balance, mean of both greens, colour matrix, gamma 2.2.

    The values of the result are rounded down to 256 levels.

    Args:
        image: packed raw images: `[B, 4, H, W]` with the channels R, G, B, G; for an X-Trans sensor, `[B, 9, H, W]`.
        rendering: white-balance gains of R, G and B in the first row, and the colour matrix to linear sRGB in the other
            three rows, `[B, 4, 3]`.

    Returns:
        `[B, 3, H, W]` in [0, 1].
    """
    rendering = rendering.to(image)
    of_channel = ["RGB".index(colour) for colour in (BAYER if image.shape[1] == len(BAYER) else COLOURS)]
    colours = average_colours((image * rendering[:, 0, of_channel, None, None]).clamp(0, 1))
    linear = torch.einsum("bij,bjhw->bihw", rendering[:, 1:], colours).clamp(0, 1)
    return (255 * linear ** (1 / 2.2)).floor() / 255


class ELD(RestorerSteps, MethodModule):
    """Train a denoiser of packed raw images on synthetic sensor noise.

    `test` also logs the paper's metrics, `corrected_psnr` and `corrected_ssim`. `predict` writes 16-bit Bayer images
    (RGGB) with black level 0. Packed images of X-Trans sensors have nine channels instead of four.

    Args:
        network: denoiser of packed raw images `[B, 4, H, W]` in [0, 1], with outputs of the same shape.
        inference: padding, tiling and self-ensemble of the network in validation, test and prediction.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> raw = torch.full((1, 4, 8, 8), 0.1)  # packed Bayer images
        >>> ELD(torch.nn.Conv2d(4, 4, 3, padding=1)).restore(raw).shape
        torch.Size([1, 4, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        inference: TiledInference = TiledInference(),  # noqa: B008 - immutable
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.network = network
        self.inference = inference
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.quality = ImageQuality("clipped")
        self.quality.measures |= {"corrected_psnr": corrected_psnr, "corrected_ssim": corrected_ssim}

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoise images that have already been brightened. Their values are first clipped to [0, 1]."""
        return self.network(noisy.clamp(0, 1))

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        loss = F.l1_loss(self(batch["noisy"]), batch["clean"])
        return {"loss": log_training(self, batch, loss)}

    def image_columns(self, batch: ImagePairBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Return the noisy input, the estimate, the clean image and the error, rendered in colour.

        Images from camera files are rendered by `srgb`, and other images by `preview`.
        """
        estimate = self.estimate(batch) if outputs is None else outputs["estimate"]
        reference = batch.get("clean", estimate)

        def rendered(image: Tensor) -> Tensor:
            return srgb(image, batch["rendering"]) if "rendering" in batch else preview(image, reference)

        pictures: Any = {key: rendered(batch[key]) for key in ("noisy", "clean") if key in batch}
        return super().image_columns(pictures, {"estimate": rendered(estimate)})

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
