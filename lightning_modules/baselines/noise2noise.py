"""Noise2Noise: train a network on pairs of noisy images of the same scene, without clean images.

    L = mean (f(y_1) - y_2)^2

Here y_1 and y_2 = x + n_2 are two noisy images of a clean image x, with independent noise of mean zero. The expected
value of the cross term -2 (f(y_1) - x) n_2 in the loss is zero. The loss is therefore minimised by E[x | y_1], as in
training with clean images.

Source: Lehtinen, Munkberg, Hasselgren, Laine, Karras, Aittala and Aila, Noise2Noise: Learning Image Restoration without
Clean Data, ICML 2018, arXiv 1803.04189.
"""

from typing import Any

import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import ImagePairBatch
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training


class Noise2Noise(RestorerSteps, MethodModule):
    """Train any network on pairs of noisy images of the same scene. The data configuration needs `noise_samples: two`.

    Args:
        network: network that maps noisy images `[B, C, H, W]` to estimates of the clean images, of the same shape.
        inference: padding, tiles and self-ensemble of the network in validation, test and prediction.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from datamodules.classification.digits import Digits
        >>> noisy = Digits().training().image[:4] / 16
        >>> Noise2Noise(torch.nn.Conv2d(1, 1, 3, padding=1)).restore(noisy).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        inference: TiledInference = TiledInference(),  # noqa: B008 - it does not change
        protocol: EvaluationProtocol = "rounded",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.network = network
        self.inference = inference
        self.quality = ImageQuality(protocol)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, noisy: Tensor) -> Tensor:
        return self.network(noisy)

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        if "second_noisy" not in batch:
            raise ValueError("Noise2Noise needs a second noisy image of each scene: set data.noise_samples to two")
        loss = F.mse_loss(self(batch["noisy"]), batch["second_noisy"])
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
