"""C-BSN: a denoiser that is trained with a blind spot, on noisy images alone, and uses all pixels at inference.

The output of a blind-spot network f_M at a pixel does not depend on this pixel. Such a network cannot copy the noise of
the pixel itself, but it copies correlated noise from neighbouring pixels. Training on sub-images that contain every
s-th pixel prevents copying, at the cost of aliasing in the output. C-BSN combines f_M with a network f that uses all
pixels. The network f shares the weights of f_M and, in addition, uses the centre taps of the first convolutions. The
losses use normalised patches x, the sub-images S_s of stride s, and a random subsampler R that keeps one pixel of each
2 x 2 cell:

    L_blind = |S_5^-1 f_M(S_5 x) - x|,    L_self = |f(x) - x|,    L_inv = |R f(x) - stopgrad f_M(R x)|,
    L = L_blind + w_t (L_self + lambda L_inv),    w_t = min(t / T, 1) at step t.

Each |.| is a mean over elements. Inference uses f alone, at full resolution.

Source: Jang, Lee, Park, Kim and Cho, Self-supervised Image Denoising with Downsampled Invariance Loss and Conditional
Blind-Spot Network, ICCV 2023, arXiv 2304.09507. Losses, ramp and normalisation follow the authors' code.
"""

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
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_training

MARGIN = 32
"""Width, in pixels, of the reflection padding before denoising; larger than the radius of the receptive field."""


def standardize_channels(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standardise each channel of images `[N, C, H, W]`; the standard deviation is clamped to at least 1 / sqrt(H W).

    Returns:
        The normalised images, the means and the standard deviations; the last two are `[N, C, 1, 1]`.
    """
    std, mean = torch.std_mean(image, dim=(2, 3), correction=0, keepdim=True)
    std = std.clamp(min=torch.sym_float(image.shape[2] * image.shape[3]) ** -0.5)
    return (image - mean) / std, mean, std


def cbsn_terms(
    network: nn.Module, x: Tensor, index: Tensor, blind_stride: int, invariance_stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute L_blind, L_self and L_inv.

    Args:
        network: function of images and of the flag `masked`; if the flag is true, the output at a pixel does not depend
            on this pixel.
        x: normalised patches `[N, C, P, P]`.
        index: for each cell, the index of the pixel that R keeps, `[N, P/s, P/s]`, in 0...s^2 - 1, where s is
            `invariance_stride`.
        blind_stride: stride of the sub-images of L_blind.
        invariance_stride: s, side of the cells of R.
    """
    blind = F.l1_loss(through_sub_images(lambda part: network(part, masked=True), x, blind_stride), x)
    seeing = network(x, masked=False)
    with torch.no_grad():
        target = network(sub_sampled(x, index[None], invariance_stride)[0], masked=True)
    invariance = F.l1_loss(sub_sampled(seeing, index[None], invariance_stride)[0], target)
    return blind, F.l1_loss(seeing, x), invariance


def loss_ramp(step: int, length: int) -> float:
    """Compute the loss weight w_t at step `step`. It rises linearly from 0 to 1 over the first `length` steps."""
    return min(step / length, 1.0)


class CBSN(RestorerSteps, MethodModule):
    """Train a conditional blind-spot network on noisy images with the downsampled invariance loss.

    Args:
        network: denoiser of normalised images `[B, C, H, W]` that takes the flag `masked`, such as `BlindSpotNetwork`.
        blind_stride: stride of the sub-images in the blind-spot loss; the patch size must be divisible by this stride.
        invariance_stride: side of the cells of R, in pixels. The invariance loss keeps one random pixel of each cell.
            The patch size must be divisible by this side.
        strength: weight lambda of the invariance loss.
        ramp_steps: T, number of steps in which w_t, the weight of the unmasked network's two losses, rises from 0 to 1.
        blind: for an ablation: whether to denoise with the masked network instead of the unmasked network.
        fixed_cells: for an ablation: whether the invariance loss keeps the first pixel of each cell instead of a random
            pixel.
        inference: tiling and self-ensemble in validation, test and prediction.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch, or every step if its `interval` is "step".

    Examples:
        >>> from lightning_modules.networks.blind_spot import BlindSpotNetwork
        >>> network = BlindSpotNetwork(1, 1, 8, 2)
        >>> CBSN(network).restore(torch.full((1, 1, 40, 40), 0.5)).shape
        torch.Size([1, 1, 40, 40])
    """

    def __init__(
        self,
        network: nn.Module,
        blind_stride: int = 5,
        invariance_stride: int = 2,
        strength: float = 2.0,
        ramp_steps: int = 200_000,
        blind: bool = False,
        fixed_cells: bool = False,
        inference: TiledInference = TiledInference(),  # noqa: B008 - immutable
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
        self.fixed_cells = fixed_cells
        self.inference = inference
        self.quality = ImageQuality()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, image: Tensor) -> Tensor:
        """Denoise normalised images with the unmasked network, or with the masked network if `blind` is true."""
        return self.network(image, masked=self.blind)

    @evaluate_without_gradients
    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Denoise whole images, each normalised by its own statistics.

        Raises:
            ValueError: if the height or width of an image is 32 pixels or less.
        """
        if any(side <= MARGIN for side in degraded.shape[2:]):  # `min` would tie height to width in an export
            raise ValueError(f"images need more than {MARGIN} pixels per side, got {list(degraded.shape[2:])}")
        x, mean, std = standardize_channels(degraded)
        x = self.inference(self, F.pad(x, [MARGIN] * 4, mode="reflect"))
        return x[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN] * std + mean

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        x, _, _ = standardize_channels(batch["noisy"])
        cells = self.invariance_stride**2
        uniform = drawn_uniformly(x, 1, self.invariance_stride)[:, 0]
        index = torch.zeros_like(uniform, dtype=torch.int64) if self.fixed_cells else (uniform * cells).long()
        blind, own, invariance = cbsn_terms(self.network, x, index, self.blind_stride, self.invariance_stride)
        loss = blind + loss_ramp(self.global_step, self.ramp_steps) * (own + self.strength * invariance)
        terms = {"blind": blind, "self": own, "invariance": invariance}
        return {"loss": log_training(self, batch, loss, **terms)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
