"""ELD learns to denoise raw images of the dark from clean ones and a physical model of the camera's noise.

A long exposure x, packed and in [0, 1], is darkened by a light factor f ~ U(100, 300), and noise of the calibrated
sensor is added, y = f N(x / f), anew at each epoch; shot, read and row noise, quantisation and colour bias are drawn
jointly with the gain (see `datamodules.corruptions.image_noise.Sensor`). A network F is trained on

    L = mean |F(clip(y, 0, 1)) - x|,

and denoises short exposures that are brightened by their ratio to a long one and clipped in the same way. Since that
ratio is not exact, estimates are brought to the brightness of the truth before they are measured,

    corrected = a p,    p = clip(F, 0, 1),    a = <p, x> / <p, p> over all values with x != 1,

and the structural similarity has a window of 7 x 7 equal weights, with sample variances.

The camera's sampler is not public. What is here follows the authors' tables of parameters and their answers, and draws
the gain from the camera's own range, where their public code for baselines takes 0.1 to 30 for every camera.

Source: Wei, Fu, Zheng and Yang, Physics-based Noise Modeling for Extreme Low-light Photography, TPAMI 2022, arXiv
2108.02158; the conference's version is arXiv 2003.12751.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import ImagePairBatch
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality, as_measured, psnr
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training

WINDOW = 7
"""Side of the window of the structural similarity, in pixels."""


def illuminance_corrected(image: Tensor, clean: Tensor) -> Tensor:
    """Clip images to [0, 1] and scale each to the brightness of the clean one, by least squares where that is not 1.

    Args:
        image: `[B, C, H, W]`.
        clean: `[B, C, H, W]` in [0, 1].

    Returns:
        `[B, C, H, W]`; images that are black remain so.
    """
    image = image.clamp(0, 1)
    counted = image * (clean != 1)
    inner, norm = ((counted * other).sum(dim=(1, 2, 3), keepdim=True) for other in (clean, image))
    return image * torch.where(norm > 0, inner / norm, 1)


def corrected_psnr(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "clipped") -> Tensor:
    """Compute the peak signal-to-noise ratio after correction of the brightness, clipped whatever the protocol."""
    double = as_measured(image, "unclipped"), as_measured(clean, "unclipped")
    return psnr(illuminance_corrected(*double), double[1], "clipped")


def corrected_ssim(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "clipped") -> Tensor:
    """Compute the structural similarity after correction of the brightness, as ELD's tables state it, `[B]`.

    The window is a square of equal weights within the image, variances are those of samples, and the result is the mean
    over channels; so it is another number than `ssim`.
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


def preview(image: Tensor, reference: Tensor) -> Tensor:
    """Show packed raw images in colour: the channels of a reference made equally bright, and gamma 2.2.

    Args:
        image: channels R, G, B, G, `[B, 4, H, W]`; half as many pixels a side as the sensor has.
        reference: of the same shape, whose means balance the colours.

    Returns:
        `[B, 3, H, W]` in [0, 1].
    """

    def colours(packed: Tensor) -> Tensor:
        return torch.stack([packed[:, 0], packed[:, 1::2].mean(dim=1), packed[:, 2]], dim=1).clamp(0, 1)

    means = colours(reference).mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    return (colours(image) * means[:, 1:2] / means).clamp(0, 1) ** (1 / 2.2)


class ELD(RestorerSteps, MethodModule):
    """Train a network on packed raw images with synthetic noise of a sensor.

    Tests log, beside the usual measures, `corrected_psnr` and `corrected_ssim`, which are those of the paper. `predict`
    writes Bayer images of 16 bits that begin with red, with black at 0.

    Args:
        network: maps packed raw images `[B, 4, H, W]` in [0, 1] to estimates of the clean ones, of the same shape.
        inference: stride of the network, tiles and self-ensemble in validation, test and prediction.
        optimizer: built on the network's trainable parameters.
        lr_scheduler: stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        inference: TiledInference = TiledInference(),  # noqa: B008 - it does not change
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
        """Map brightened images, which are clipped to [0, 1] here, as saturated and negative values are in the dark."""
        return self.network(noisy.clamp(0, 1))

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        loss = F.l1_loss(self(batch["noisy"]), batch["clean"])
        return {"loss": log_training(self, batch, loss)}

    def image_columns(self, batch: ImagePairBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show raw images in colour, before and after, and what is wrong in the estimate."""
        estimate = self.estimated(batch) if outputs is None else outputs["estimate"]
        reference = batch.get("clean", estimate)
        pictures: Any = {key: preview(batch[key], reference) for key in ("noisy", "clean") if key in batch}
        return super().image_columns(pictures, {"estimate": preview(estimate, reference)})

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
