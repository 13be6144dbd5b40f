"""Noise2Self: train a network on single noisy images, in which the pixels of a grid are masked.

A grid J consists of one pixel of each square of w x w pixels, at the same position in all squares. In the noisy image
y, the pixels of J are replaced with weighted means of their eight neighbours. From the result y~, the network predicts
the original values of these pixels:

    L = mean over i in J of (f(y~)_i - y_i)^2

The estimate at the pixels of J does not depend on the values of y at these pixels. Suppose that the noise is
independent between pixels and has mean zero. The expected value of L is then the sum of two terms: the mean squared
error with respect to the clean image, and the variance of the noise.

The position within the squares is sampled for each patch. In inference, the network processes the whole image once,
without masking, as in the authors' code with `infer_single_pass`. Departure: beyond the border of an image, neighbours
are reflected; the authors' code pads with zeros, which darkens the weighted means of border pixels.

Source: Batson and Royer, Noise2Self: Blind Denoising by Self-Supervision, ICML 2019, arXiv 1901.11365.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least
from datamodules.batches import ImagePairBatch
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.counter import sample_uniform
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training

STREAM = 3001  # key of this file's random numbers; Noise2Void uses 3000
NEIGHBOURS = (0.5, 1.0, 0.5, 1.0, 0.0, 1.0, 0.5, 1.0, 0.5)
"""Weights of the neighbours before normalisation."""


def grid_mask(shape: tuple[int, int], uniform: Tensor, width: int) -> Tensor:
    """Divide images into squares, and select one pixel per square, at the same position in all squares of an image.

    Args:
        shape: height and width of the images.
        uniform: random numbers in [0, 1), `[B, 2]`, from which the pixel's row and column in the squares are computed.
        width: side length w of a square, in pixels.

    Returns:
        Mask of the grid J, `[B, 1, H, W]`, bool.
    """
    rows, columns = (torch.arange(side, device=uniform.device) % width for side in shape)
    place = (uniform * width).long()
    return ((rows == place[:, :1])[:, :, None] & (columns == place[:, 1:])[:, None, :])[:, None]


def interpolate_masked(noisy: Tensor, hidden: Tensor) -> Tensor:
    """Replace each masked pixel of images `[B, C, H, W]` by a weighted mean of its neighbours.

    The mask `hidden` has the shape `[B, 1, H, W]`.
    """
    kernel = noisy.new_tensor(NEIGHBOURS).view(1, 1, 3, 3) / sum(NEIGHBOURS)
    channels = noisy.shape[1]
    mean = F.conv2d(F.pad(noisy, [1] * 4, mode="reflect"), kernel.expand(channels, -1, -1, -1), groups=channels)
    return torch.where(hidden, mean, noisy)


class Noise2Self(RestorerSteps, MethodModule):
    """Train any network on noisy images, without clean images. In each training step, the pixels of a grid are masked.

    Args:
        network: network that maps noisy images `[B, C, H, W]` to estimates of the clean images, of the same shape.
        width: side length w of the squares, in pixels. One pixel of each square is masked.
        inference: padding, tiles and self-ensemble of the network in validation, test and prediction.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from datamodules.classification.digits import Digits
        >>> noisy = Digits().training().image[:4] / 16
        >>> Noise2Self(torch.nn.Conv2d(1, 1, 3, padding=1)).restore(noisy).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        width: int = 4,
        inference: TiledInference = TiledInference(),  # noqa: B008 - it does not change
        protocol: EvaluationProtocol = "rounded",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(2, width=width)
        self.network = network
        self.width = width
        self.inference = inference
        self.quality = ImageQuality(protocol)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, noisy: Tensor) -> Tensor:
        return self.network(noisy)

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        noisy = batch["noisy"]
        if min(noisy.shape[2:]) < self.width:
            raise ValueError(
                f"patches of {list(noisy.shape[2:])} pixels must not be smaller than model.width ({self.width})"
            )
        uniform = sample_uniform(run_seed(), self.current_epoch, batch["index"], 2, stream=STREAM)
        hidden = grid_mask((noisy.shape[2], noisy.shape[3]), uniform, self.width)
        error = (self(interpolate_masked(noisy, hidden)) - noisy).square().mean(dim=1, keepdim=True)
        per_patch = (error * hidden).sum(dim=(1, 2, 3)) / hidden.sum(dim=(1, 2, 3))
        return {"loss": log_training(self, batch, per_patch.mean())}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
