"""NoiSER learns low-light enhancement by reconstructing noise; it needs no photographs for training.

A small network f with one instance normalisation is trained to reconstruct images of random noise x,

    L = mean |f(x) - x| + weight TV(f(x)),      x = clamp(m + s n, -1, 1),  n ~ N(0, I),  s = 3,
    TV(y) = (sum of squared differences of vertical and of horizontal neighbours) / (B C H W).

For a dark photograph I in [0, 1], the output (f(2 I - 1) + 1) / 2 is about as bright as the training images. The
normalisation removes the photograph's global brightness and contrast, whereas the reconstruction task preserves local
contrast. The noise mean m shifts the brightness of the output. The extended paper also trains on images of a single
colour and on colour palettes, but gives no formula for them. Here, the colour of each image, or of each block of a
palette, is sampled uniformly.

Source: Zhang, Zhao, Jin, Xu, Yang and Yan, Noise Self-Regression, arXiv 2211.04700. The authors' code is not public.
Hyperparameters, total variation and reference results come from a re-implementation (NoiSER-Var3).
"""

from typing import Any, Literal, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchvision.transforms.v2.functional import equalize

from datamodules.arguments import at_least, one_of, only_with, positive
from datamodules.batches import ImagePairBatch
from datamodules.pixel_ranges import to_signed, to_unit
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality, as_measured, psnr
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_training

Source = Literal["noise", "colour", "palette"]


class Enhancer(nn.Sequential):
    """Two 3x3 convolutions with instance normalisation between them; maps images `[B, C, H, W]` to (-1, 1).

    The normalisation uses each image's own statistics and has no affine parameters.

    Args:
        channels: channels of an image, C.
        hidden: channels between the convolutions; 32 gives 1,763 parameters for colour images.
        normalized: whether to use the instance normalisation, which brightens dark images.
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
    """Sample images of Gaussian noise that have the shape, dtype and device of `like`; clamp them to [-1, 1]."""
    return (mean + deviation * sample_rows_like(torch.randn, like)).clamp(-1, 1)


def colour_images(like: Tensor, block: int | None) -> Tensor:
    """Sample images in [-1, 1] with one random colour per block; if `block` is None, each image has one colour."""
    height, width = like.shape[2:]
    rows, columns = (1, 1) if block is None else (-(-height // block), -(-width // block))
    colour = 2 * sample_rows(torch.rand, (*like.shape[:2], rows, columns), like.device, dtype=like.dtype) - 1
    size = max(height, width) if block is None else block
    return colour.repeat_interleave(size, dim=2)[:, :, :height].repeat_interleave(size, dim=3)[..., :width]


def squared_variation(image: Tensor) -> Tensor:
    """Compute the sum of squared differences of neighbouring pixels, divided by the number of elements of `image`."""
    return (image.diff(dim=2).square().sum() + image.diff(dim=3).square().sum()) / image.numel()


def aligned_psnr(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "rounded") -> Tensor:
    """Compute the PSNR after scaling each image to the mean brightness of the clean image."""
    means = (each.mean(dim=(1, 2, 3), keepdim=True) for each in (clean, image.clamp(0, 1)))
    return psnr(image * (next(means) / next(means).clamp(min=1e-6)), clean, protocol)


def grey_error(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "rounded") -> Tensor:
    """Compute the distance of each channel mean from mid-grey, 0.5, averaged over channels; the result is `[B]`.

    `clean` is ignored.
    """
    return (as_measured(image, protocol).mean(dim=(2, 3)) - 0.5).abs().mean(dim=1)


def local_contrast(image: Tensor) -> Tensor:
    """Compute the mean absolute difference of neighbouring pixels in images `[B, C, H, W]`; the result is `[B]`."""
    return sum(image.diff(dim=dim).abs().mean(dim=(1, 2, 3)) for dim in (2, 3)) / 2  # type: ignore[return-value]


def contrast_error(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "rounded") -> Tensor:
    """Compute |log(c(image) / c(clean))|, where c is the local contrast; the result is `[B]`."""
    ratio = [local_contrast(as_measured(each, protocol)).clamp(min=1e-6) for each in (image, clean)]
    return (ratio[0] / ratio[1]).log().abs()


def simple_corrections(image: Tensor) -> dict[str, Tensor]:
    """Apply three simple brightness corrections to images `[B, C, H, W]` in [0, 1].

    Returns:
        Three results: `gamma`, images raised to the power 1 / 2.2; `stretched`, in which the range of values of each
        channel is mapped to [0, 1]; and `equalized`, in which the histogram of each channel is equalised, in 256
        levels.
    """
    image = image.clamp(0, 1)
    low, high = image.amin(dim=(2, 3), keepdim=True), image.amax(dim=(2, 3), keepdim=True)
    return {
        "gamma": image ** (1 / 2.2),
        "stretched": (image - low) / (high - low).clamp(min=1e-6),
        "equalized": equalize((255 * image).round().to(torch.uint8)).to(image.dtype) / 255,
    }


class NoiSER(RestorerSteps, MethodModule):
    """Train a network to reconstruct noise, and use this network to brighten dark photographs.

    `test` logs the plain PSNR, `aligned_psnr`, `grey_error` and `contrast_error`. For `aligned_psnr`, the estimate is
    first scaled to the mean brightness of the ground truth; many papers do this.

    Args:
        network: maps images `[B, C, H, W]` in [-1, 1] to images in (-1, 1).
        source: kind of training images: `noise`, images of a single `colour`, or a `palette` of coloured blocks.
        noise_mean: m, mean of the noise before clamping.
        noise_deviation: s, standard deviation of the noise before clamping.
        block: height and width of the blocks of a `palette`, in pixels.
        variation_weight: weight of the total variation.
        simple_baselines: whether `test` also evaluates `simple_corrections`, and logs their metrics, such as
            `test/gamma_psnr`.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> dark = torch.full((1, 3, 16, 16), 0.1)
        >>> NoiSER(torch.nn.Conv2d(3, 3, 3, padding=1)).restore(dark).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        network: nn.Module,
        source: Source = "noise",
        noise_mean: float = 0.0,
        noise_deviation: float = 3.0,
        block: int = 8,
        variation_weight: float = 1.0,
        simple_baselines: bool = False,
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
        self.simple_baselines = simple_baselines
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.quality = ImageQuality(protocol)
        self.quality.measures |= {
            "aligned_psnr": aligned_psnr,
            "grey_error": grey_error,
            "contrast_error": contrast_error,
        }

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

    @evaluate_without_gradients
    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Brighten photographs `[B, C, H, W]` in [0, 1], without dividing them into tiles.

        The normalisation needs the statistics of the whole image.
        """
        with in_full_precision(degraded.device):
            return to_unit(self.network(to_signed(at_least_float32(degraded))))

    def other_estimates(self, batch: ImagePairBatch) -> dict[str, Tensor]:
        return simple_corrections(at_least_float32(batch["noisy"])) if self.simple_baselines else {}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
