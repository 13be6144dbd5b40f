"""Supervised training: train a network to predict clean images from noisy images.

    L = mean (f(y) - x)^2    or    L = mean |f(y) - x|

Here y are noisy images and x are clean images. Supervised training is the baseline for methods that train without clean
images.

Source: Zhang, Zuo, Chen, Meng and Zhang, Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising,
IEEE Transactions on Image Processing 2017, arXiv 1608.03981.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of
from datamodules.batches import ImagePairBatch
from lightning_modules.backbones.resized import times_larger
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training

LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss}


class SupervisedRestoration(RestorerSteps, MethodModule):
    """Train an arbitrary network on pairs of noisy and clean images.

    Args:
        network: network that maps noisy images `[B, C, H, W]` to estimates of the clean images, of the same shape.
        loss: mean squared error (`mse`) or mean absolute error (`l1`).
        factor: upscaling factor along each axis, for super-resolution. The network's inputs are the noisy images after
            upscaling by bicubic interpolation.
        inference: padding, tiles and self-ensemble of the network in validation, test and prediction.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from datamodules.classification.digits import Digits
        >>> noisy = Digits().training().image[:4] / 16
        >>> SupervisedRestoration(torch.nn.Conv2d(1, 1, 3, padding=1)).restore(noisy).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Literal["mse", "l1"] = "mse",
        factor: int = 1,
        inference: TiledInference = TiledInference(),  # noqa: B008 - it does not change
        protocol: EvaluationProtocol = "rounded",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        one_of(LOSSES, loss=loss)
        at_least(1, factor=factor)
        self.network = network
        self.loss = loss
        self.factor = factor
        self.inference = inference
        self.quality = ImageQuality(protocol)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, noisy: Tensor) -> Tensor:
        """Estimate clean images `[B, C, H, W]` from noisy images that were already upscaled."""
        return self.network(noisy)

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return super().restore(times_larger(degraded, self.factor))

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        loss = LOSSES[self.loss](self(times_larger(batch["noisy"], self.factor)), batch["clean"])
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
