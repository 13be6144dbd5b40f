"""NoiSER learns to light dark photographs by repeating noise, without any photograph.

A small network f with one instance normalisation is trained to give back images of random noise x,

    L = mean |f(x) - x| + weight TV(f(x)),      x = clamp(m + s n, -1, 1),  n ~ N(0, I),  s = 3,
    TV(y) = (sum of squared differences of vertical and of horizontal neighbours) / (B C H W).

It is then given a dark photograph I in [0, 1], and (f(2 I - 1) + 1) / 2 is as light as its training images were: the
normalisation takes away the brightness and contrast of the whole photograph, and repeating noise has kept the contrast
of neighbours. The mean of the noise, m, shifts the brightness. In place of noise the extended paper also repeats images
of one colour and palettes of colours, of which no formula was found: here a uniform colour for each image or block.

Source: Zhang, Zhao, Jin, Xu, Yang and Yan, Noise Self-Regression, arXiv 2211.04700. The authors' code is not public;
settings and the total variation are those of a re-implementation (NoiSER-Var3), and so are results here.
"""

from typing import Any, Literal, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, only_with, positive
from datamodules.batches import ImagePairBatch
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality, psnr
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training

Source = Literal["noise", "colour", "palette"]


class Enhancer(nn.Sequential):
    """Map images `[B, C, H, W]` to (-1, 1) by two 3x3 convolutions, with an instance normalisation between them.

    The normalisation has the statistics of each image itself, and no weights.

    Args:
        channels: channels of an image, C.
        hidden: channels between the convolutions; 32 makes 1,763 weights for colour images.
        normalized: whether there is a normalisation, which is what lights an image.
    """

    def __init__(self, channels: int = 3, hidden: int = 32, normalized: bool = True) -> None:
        super().__init__(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.InstanceNorm2d(hidden) if normalized else nn.Identity(),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 3, padding=1),
            nn.Tanh(),
        )


def noise_images(like: Tensor, mean: float, deviation: float) -> Tensor:
    """Draw images of clamped Gaussian noise in [-1, 1], of the shape, type and device of `like`."""
    return (mean + deviation * sample_rows_like(torch.randn, like)).clamp(-1, 1)


def colour_images(like: Tensor, block: int | None) -> Tensor:
    """Draw images in [-1, 1] whose blocks have one random colour each; None makes the whole image one block."""
    height, width = like.shape[2:]
    rows, columns = (1, 1) if block is None else (-(-height // block), -(-width // block))
    colour = 2 * sample_rows(torch.rand, (*like.shape[:2], rows, columns), like.device, dtype=like.dtype) - 1
    size = max(height, width) if block is None else block
    return colour.repeat_interleave(size, dim=2)[:, :, :height].repeat_interleave(size, dim=3)[..., :width]


def squared_variation(image: Tensor) -> Tensor:
    """Sum the squared differences of neighbours, over the number of values of `[B, C, H, W]`."""
    return (image.diff(dim=2).square().sum() + image.diff(dim=3).square().sum()) / image.numel()


def aligned_psnr(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "rounded") -> Tensor:
    """Compute the peak signal-to-noise ratio of images that are brought to the mean brightness of the clean ones."""
    means = (each.mean(dim=(1, 2, 3), keepdim=True) for each in (clean, image.clamp(0, 1)))
    return psnr(image * (next(means) / next(means).clamp(min=1e-6)), clean, protocol)


class NoiSER(RestorerSteps, MethodModule):
    """Train a network to repeat noise, and light dark photographs with it.

    Tests log the peak signal-to-noise ratio as it is, and `aligned_psnr` with the truth's mean brightness, which many
    papers of the field report.

    Args:
        network: maps images `[B, C, H, W]` in [-1, 1] to images in (-1, 1).
        source: images to repeat: `noise`, images of one `colour`, or a `palette` of coloured blocks.
        noise_mean: m, mean of the noise before it is clamped.
        noise_deviation: s, deviation of the noise before it is clamped.
        block: height and width of a palette's blocks, in pixels.
        variation_weight: weight of the total variation.
        protocol: how tests measure estimates: `rounded` to 256 levels, `clipped` alone, or `unclipped`.
        optimizer: built on the network's trainable parameters.
        lr_scheduler: stepped every epoch.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        source: Source = "noise",
        noise_mean: float = 0.0,
        noise_deviation: float = 3.0,
        block: int = 8,
        variation_weight: float = 1.0,
        protocol: EvaluationProtocol = "rounded",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        one_of(get_args(Source), source=source)
        positive(noise_deviation=noise_deviation)
        at_least(0, variation_weight=variation_weight)
        at_least(1, block=block)
        noise = {"noise_mean": noise_mean, "noise_deviation": noise_deviation}
        only_with("source noise", source == "noise", NoiSER, **noise)
        only_with("source palette", source == "palette", NoiSER, block=block)
        self.network = network
        self.source = source
        self.noise_mean = noise_mean
        self.noise_deviation = noise_deviation
        self.block = block
        self.variation_weight = variation_weight
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.quality = ImageQuality(protocol)
        self.quality.measures["aligned_psnr"] = aligned_psnr

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        blank = batch["noisy"]
        if self.source == "noise":
            image = noise_images(blank, self.noise_mean, self.noise_deviation)
        else:
            image = colour_images(blank, None if self.source == "colour" else self.block)
        output = self.network(image)
        distance, variation = (output - image).abs().mean(), squared_variation(output)
        loss = distance + self.variation_weight * variation
        return {"loss": log_training(self, batch, loss, distance=distance, variation=variation)}

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Light photographs `[B, C, H, W]` in [0, 1], whole, since each is normalised by its own statistics."""
        with in_full_precision(degraded.device):
            return (self.network(2 * at_least_float32(degraded) - 1) + 1) / 2

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
