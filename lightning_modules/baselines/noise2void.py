"""Noise2Void: train a network on single noisy images with masked pixels (blind-spot training).

In a patch y, some pixels i are replaced with neighbouring pixels. From the result y~, the network has to predict the
original values of the replaced pixels:

    L = mean over the replaced i of (f(y~)_i - y_i)^2

If the noise is independent between pixels, the input of the network contains no information about the noise of y_i. The
loss is then minimised by E[x_i | all other pixels].

A patch is divided into squares, and one pixel of each square is masked (stratified sampling). The masked pixel is
replaced with a different pixel, sampled from the surrounding 5 x 5 window. At borders, the window is shifted inwards.
The first version of the authors' code could also sample the masked pixel itself as the replacement. In 1 of 25 cases,
the network then receives the noise of the masked pixel.

Source: Krull, Buchholz and Jug, Noise2Void: Learning Denoising from Single Noisy Images, CVPR 2019, arXiv 1811.10980.
"""

from typing import Any

import torch
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

STREAM = 3000  # key of this file's random numbers; smaller keys are used for the data
REACH = 2
"""Maximum distance between a masked pixel and its replacement pixel, in rows and in columns, except near borders."""


def mask_pixels(noisy: Tensor, uniform: Tensor, square: int) -> tuple[Tensor, Tensor]:
    """Divide images into squares, and replace one pixel of each square by a neighbouring pixel, in all channels.

    Args:
        noisy: images `[B, C, H, W]`; H and W must be at least `square` and at least 5.
        uniform: random numbers in [0, 1), `[B, N, 3]`. For each of the N complete squares of an image, they select the
            pixel's row, its column, and the neighbour that replaces it.
        square: side length of a square, in pixels.

    Returns:
        The images with the replaced pixels, and the mask of the replaced pixels, `[B, 1, H, W]`, bool.
    """
    batch, channels, height, width = noisy.shape
    down, across = height // square, width // square
    rows, columns = (torch.arange(count, device=noisy.device) for count in (down, across))
    corner = torch.cartesian_prod(rows, columns) * square
    row, column = (corner + (uniform[..., :2] * square).long()).unbind(dim=-1)
    side = 2 * REACH + 1
    top, left = (row - REACH).clamp(0, height - side), (column - REACH).clamp(0, width - side)
    neighbour = (uniform[..., 2] * (side**2 - 1)).long()
    neighbour = neighbour + (neighbour >= (row - top) * side + column - left)  # skips the masked pixel itself
    other_row, other_column = top + neighbour // side, left + neighbour % side
    place, other = row * width + column, other_row * width + other_column
    flat = noisy.flatten(2)
    taken = flat.gather(2, other[:, None].expand(-1, channels, -1))
    replaced = flat.scatter(2, place[:, None].expand(-1, channels, -1), taken).view_as(noisy)
    hidden = torch.zeros(batch, height * width, dtype=torch.bool, device=noisy.device).scatter(1, place, True)
    return replaced, hidden.view(batch, 1, height, width)


class Noise2Void(RestorerSteps, MethodModule):
    """Train any network on noisy images, without clean images. In each training step, some pixels are masked.

    Args:
        network: network that maps noisy images `[B, C, H, W]` to estimates of the clean images, of the same shape.
        square: side length of the squares, in pixels. One pixel of each square is masked. The paper uses 8, which masks
            64 pixels of a 64 x 64 patch.
        inference: padding, tiles and self-ensemble of the network in validation, test and prediction.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from datamodules.classification.digits import Digits
        >>> noisy = Digits().training().image[:4] / 16
        >>> Noise2Void(torch.nn.Conv2d(1, 1, 3, padding=1)).restore(noisy).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        square: int = 8,
        inference: TiledInference = TiledInference(),  # noqa: B008 - it does not change
        protocol: EvaluationProtocol = "rounded",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(2, square=square)
        self.network = network
        self.square = square
        self.inference = inference
        self.quality = ImageQuality(protocol)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, noisy: Tensor) -> Tensor:
        return self.network(noisy)

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        noisy = batch["noisy"]
        if min(noisy.shape[2:]) < max(self.square, 2 * REACH + 1):
            raise ValueError(
                f"patches of {list(noisy.shape[2:])} pixels must not be smaller than model.square ({self.square}) or "
                "than 5 pixels"
            )
        squares = (noisy.shape[2] // self.square) * (noisy.shape[3] // self.square)
        uniform = sample_uniform(run_seed(), self.current_epoch, batch["index"], 3 * squares, stream=STREAM)
        replaced, hidden = mask_pixels(noisy, uniform.view(len(noisy), squares, 3), self.square)
        error = (self(replaced) - noisy).square() * hidden
        loss = error.sum() / (len(noisy) * squares * noisy.shape[1])
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
