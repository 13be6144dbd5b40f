"""A conditional blind-spot network (C-BSN) learns from noisy images alone, and sees every pixel when it denoises.

A blind-spot network f_M cannot copy the noise of a pixel, which it does not see; where noise correlates, it copies that
of the neighbours, unless it is trained on sub-images of every s-th pixel, whose aliasing is in its output then. C-BSN
is f_M and, with the same weights and the centre taps of its first convolutions, a network f that sees all. On
normalised patches x, with S_s the sub-images of stride s and R, which takes a random pixel of each 2 x 2:

    L_blind = |S_5^-1 f_M(S_5 x) - x|,    L_self = |f(x) - x|,    L_inv = |R f(x) - stopgrad f_M(R x)|,
    L = L_blind + w_t (L_self + lambda L_inv),    w_t = min(t / T, 1) at step t,

all of them means over the elements. f alone denoises, in full resolution.

Source: Jang, Lee, Park, Kim and Cho, Self-supervised Image Denoising with Downsampled Invariance Loss and Conditional
Blind-Spot Network, ICCV 2023, arXiv 2304.09507. Losses, ramp and normalisation are those of the authors' code.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least
from datamodules.batches import ImagePairBatch
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.denoising.sub_images import drawn_uniformly, sub_sampled, through_sub_images
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training

MARGIN = 32
"""Pixels by which an image is reflected at each side before it is denoised: more than the network sees."""


def normalized(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each channel of images `[N, C, H, W]` by its mean and standard deviation, at least 1 / sqrt(H W).

    Returns:
        The normalised images, and mean and standard deviation, `[N, C, 1, 1]`.
    """
    std, mean = torch.std_mean(image, dim=(2, 3), correction=0, keepdim=True)
    std = std.clamp(min=1 / math.sqrt(image.shape[2] * image.shape[3]))
    return (image - mean) / std, mean, std


def cbsn_terms(
    network: nn.Module, x: Tensor, index: Tensor, blind_stride: int, invariance_stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute L_blind, L_self and L_inv.

    Args:
        network: takes images and whether it is blind to the pixel it predicts, `masked`.
        x: normalised patches `[N, C, P, P]`.
        index: the pixel that R takes of each cell, `[N, P/s, P/s]` in 0...s^2 - 1, for s the invariance's stride.
        blind_stride: stride of the sub-images of L_blind.
        invariance_stride: s.
    """
    blind = F.l1_loss(through_sub_images(lambda part: network(part, masked=True), x, blind_stride), x)
    seeing = network(x, masked=False)
    with torch.no_grad():
        target = network(sub_sampled(x, index[None], invariance_stride)[0], masked=True)
    invariance = F.l1_loss(sub_sampled(seeing, index[None], invariance_stride)[0], target)
    return blind, F.l1_loss(seeing, x), invariance


def ramp(step: int, length: int) -> float:
    """Compute w_t, which rises linearly from 0 to 1."""
    return min(step / length, 1.0)


class CBSN(RestorerSteps, MethodModule):
    """Train a blind-spot network on noisy images, with a downsampled invariance that lets it see all pixels.

    Args:
        network: maps normalised images `[B, C, H, W]`, and whether it is `masked`, to images, as `BlindSpotNetwork`.
        blind_stride: stride of the sub-images that the blind network learns on; it divides the side of patches.
        invariance_stride: side of the cells, a random pixel of which the invariance compares; it divides that, too.
        strength: lambda, weight of the invariance.
        ramp_steps: T, steps in which the terms of the network that sees all pixels come in.
        blind: whether images are denoised by the network that is blind to the pixel it predicts, for comparison.
        inference: tiles and self-ensemble in validation, test and prediction.
        optimizer: built on the network's trainable parameters.
        lr_scheduler: stepped every epoch, or every step where it has `interval = "step"`.

    Raises:
        ValueError: if an argument is out of range, or in training a stride does not divide the side of patches.
    """

    def __init__(
        self,
        network: nn.Module,
        blind_stride: int = 5,
        invariance_stride: int = 2,
        strength: float = 2.0,
        ramp_steps: int = 200_000,
        blind: bool = False,
        inference: TiledInference = TiledInference(),  # noqa: B008 - it does not change
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, blind_stride=blind_stride, invariance_stride=invariance_stride, ramp_steps=ramp_steps)
        at_least(0, strength=strength)
        self.network = network
        self.blind_stride = blind_stride
        self.invariance_stride = invariance_stride
        self.strength = strength
        self.ramp_steps = ramp_steps
        self.blind = blind
        self.inference = inference
        self.quality = ImageQuality()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised images by the network that denoises."""
        return self.network(image, masked=self.blind)

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Denoise images, each normalised as a whole.

        Raises:
            ValueError: if a side has no more than 32 pixels.
        """
        if min(degraded.shape[2:]) <= MARGIN:
            raise ValueError(f"images need more than {MARGIN} pixels a side, got {list(degraded.shape[2:])}")
        x, mean, std = normalized(degraded)
        x = self.inference(self, F.pad(x, [MARGIN] * 4, mode="reflect"))
        return x[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN] * std + mean

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        x, _, _ = normalized(batch["noisy"])
        cells = self.invariance_stride**2
        index = (drawn_uniformly(x, 1, self.invariance_stride)[:, 0] * cells).long()
        blind, own, invariance = cbsn_terms(self.network, x, index, self.blind_stride, self.invariance_stride)
        loss = blind + ramp(self.global_step, self.ramp_steps) * (own + self.strength * invariance)
        terms = {"blind": blind, "self": own, "invariance": invariance}
        return {"loss": log_training(self, batch, loss, **terms)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
