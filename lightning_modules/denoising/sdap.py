"""SDAP: a blind-spot network learns to denoise from random sub-samples of noisy images.

The p^2 pixels of each cell of p x p pixels go to p^2 sub-images, in an order that is drawn for each cell. So noise that
neighbouring pixels share is taken apart, and the network f, which is blind to the pixel it predicts, learns from one
sub-image S_j the next one, whose difference perturbs the pair:

    L = sum_j |f(S_j) - S_{(j + 1) mod p^2}|,

a sum of p^2 means over elements. In use, f maps the sub-images of stride 2 in their fixed order; a second pass in full
resolution (E) removes the checkerboard that is left.

Source: Pan, Liu, Liao, Cao and Ren, Random Sub-Samples Generation for Self-Supervised Real Image Denoising, ICCV 2023,
arXiv 2307.16825. As in the authors' code, no gradient is cut and E sees the unclipped first result. Images whose sides
the stride of use does not divide are reflected up to it, which that code refuses.
"""

from typing import Any

import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least
from datamodules.batches import ImagePairBatch
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.denoising.sub_images import denoised_by_sub_images, drawn_uniformly, sub_sampled
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training


def random_sub_samples(image: Tensor, uniform: Tensor, stride: int) -> Tensor:
    """Deal the pixels of each cell out to sub-images, each pixel to one.

    Args:
        image: `[N, C, H, W]`.
        uniform: `[N, p^2, H/p, W/p]`; the order of a cell's p^2 numbers is that of its pixels.
        stride: p.

    Returns:
        S, `[p^2, N, C, H/p, W/p]`.
    """
    return sub_sampled(image, uniform.argsort(dim=1).transpose(0, 1), stride)


def cyclic_difference_loss(network: nn.Module, sub_image: Tensor) -> Tensor:
    """Compare what the network gives for each sub-image with the next one, and for the last with the first.

    Args:
        network: maps images to images.
        sub_image: S, `[p^2, N, C, h, w]`.
    """
    output = network(sub_image.flatten(0, 1)).unflatten(0, sub_image.shape[:2])
    return len(sub_image) * F.l1_loss(output, sub_image.roll(-1, dims=0))


class SDAP(RestorerSteps, MethodModule):
    """Train a blind-spot network on random sub-samples of noisy images.

    Args:
        network: maps noisy images `[B, C, H, W]` to clean ones, each pixel from the others alone: `BlindSpotNetwork`.
        stride: p, side of the cells in training; it divides the side of patches.
        test_stride: stride of the sub-images that are denoised in validation, test and prediction.
        enhancement: whether these are denoised once more in full resolution (E).
        inference: tiles and self-ensemble in validation, test and prediction; tiles and what they share are multiples
            of `test_stride`.
        optimizer: built on the network's trainable parameters.
        lr_scheduler: stepped every epoch.

    Raises:
        ValueError: if an argument is out of range, or in training the stride does not divide the side of patches.
    """

    def __init__(
        self,
        network: nn.Module,
        stride: int = 5,
        test_stride: int = 2,
        enhancement: bool = False,
        inference: TiledInference = TiledInference(),  # noqa: B008 - it does not change
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, test_stride=test_stride)
        at_least(2, stride=stride)
        self.network = network
        self.stride = stride
        self.test_stride = test_stride
        self.enhancement = enhancement
        self.inference = inference
        self.quality = ImageQuality()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, image: Tensor) -> Tensor:
        """Denoise images of any size, by way of their sub-images."""
        denoised = denoised_by_sub_images(self.network, image, self.test_stride)
        return self.network(denoised) if self.enhancement else denoised

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        noisy = batch["noisy"]
        uniform = drawn_uniformly(noisy, self.stride**2, self.stride)
        loss = cyclic_difference_loss(self.network, random_sub_samples(noisy, uniform, self.stride))
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
