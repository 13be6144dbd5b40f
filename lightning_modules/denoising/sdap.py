"""SDAP: a blind-spot network that learns to denoise from random sub-samples of noisy images.

The p^2 pixels of each p x p cell are distributed over p^2 sub-images, in a random order that is sampled for each cell.
This decorrelates the noise of neighbouring pixels. From a sub-image S_j, the blind-spot network f predicts the next
sub-image. The difference between inputs and targets acts as a perturbation in training. The loss is

    L = sum_j |f(S_j) - S_{(j + 1) mod p^2}|,

where each |.| is a mean over elements. At inference, f denoises the sub-images of stride 2, whose pixels are assigned
in a fixed order. A second pass of f at full resolution (E) removes the remaining checkerboard artefacts.

Source: Pan, Liu, Liao, Cao and Ren, Random Sub-Samples Generation for Self-Supervised Real Image Denoising, ICCV 2023,
arXiv 2307.16825. As in the authors' code, there is no stop-gradient, and the input of E is the unclipped result of the
first pass. Images whose sides are not divisible by the inference stride are reflection-padded; the authors' code
rejects such images.
"""

from typing import Any

import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least
from datamodules.batches import ImagePairBatch
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.denoising.sub_images import denoised_by_sub_images, drawn_uniformly, sub_images, sub_sampled
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training


def random_sub_samples(image: Tensor, uniform: Tensor, stride: int) -> Tensor:
    """Assign the pixels of each cell to sub-images in random order, one pixel to each sub-image.

    Args:
        image: `[N, C, H, W]`.
        uniform: random numbers `[N, p^2, H/p, W/p]`. Sorting the numbers of a cell gives the order of its pixels.
        stride: p, side of a cell.

    Returns:
        S, `[p^2, N, C, H/p, W/p]`.
    """
    return sub_sampled(image, uniform.argsort(dim=1).transpose(0, 1), stride)


def cyclic_difference_loss(network: nn.Module, sub_image: Tensor) -> Tensor:
    """Compute the L1 loss between the network's output for a sub-image and the next sub-image, in cyclic order.

    Args:
        network: denoiser of images.
        sub_image: S, `[p^2, N, C, h, w]`.
    """
    output = network(sub_image.flatten(0, 1)).unflatten(0, sub_image.shape[:2])
    return len(sub_image) * F.l1_loss(output, sub_image.roll(-1, dims=0))


class SDAP(RestorerSteps, MethodModule):
    """Train a blind-spot network on random sub-samples of noisy images.

    Args:
        network: blind-spot denoiser of images `[B, C, H, W]`, such as `BlindSpotNetwork`.
        stride: p, side of the cells in training; the patch size must be divisible by this stride.
        test_stride: stride of the sub-images in validation, test and prediction.
        enhancement: whether to denoise the result once more at full resolution (E).
        fixed_order: whether the pixels of every cell are assigned to sub-images in the same fixed order; this is an
            ablation.
        inference: tiling and self-ensemble in validation, test and prediction; tile size and overlap must be multiples
            of `test_stride`.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from datamodules.classification.digits import Digits
        >>> noisy = Digits().training().image[:4] / 16
        >>> SDAP(torch.nn.Conv2d(1, 1, 3, padding=1)).restore(noisy).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        stride: int = 5,
        test_stride: int = 2,
        enhancement: bool = False,
        fixed_order: bool = False,
        inference: TiledInference = TiledInference(),  # noqa: B008 - immutable
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
        self.fixed_order = fixed_order
        self.inference = inference
        self.quality = ImageQuality()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, image: Tensor) -> Tensor:
        """Denoise images of any size through their sub-images."""
        denoised = denoised_by_sub_images(self.network, image, self.test_stride)
        return self.network(denoised) if self.enhancement else denoised

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        noisy = batch["noisy"]
        if self.fixed_order:
            sub_sample = sub_images(noisy, self.stride)
        else:
            uniform = drawn_uniformly(noisy, self.stride**2, self.stride)
            sub_sample = random_sub_samples(noisy, uniform, self.stride)
        loss = cyclic_difference_loss(self.network, sub_sample)
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
