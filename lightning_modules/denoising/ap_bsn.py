"""AP-BSN: asymmetric pixel-shuffle downsampling for blind-spot networks on spatially correlated noise.

The blind-spot network f predicts each pixel from its neighbours alone. The image x is split into sub-images S_s x, each
of which consists of every s-th pixel in both directions. The noise of a sub-image is nearly uncorrelated. In training,
f is applied to the sub-images, and the merged results are compared with the noisy input:

    L = |S_s^-1 f(S_s x) - x|.

Training uses s = 5; inference uses s = 2, which preserves more detail. With s = 1, AP-BSN is a plain blind-spot
network, which copies noise that is correlated between neighbouring pixels.

Source: Lee, Son and Lee, AP-BSN: Self-Supervised Denoising for Real-World Images via Asymmetric PD and Blind-Spot
Network, CVPR 2022, arXiv 2203.11799. The random-replacing refinement (R3) is not implemented.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least
from datamodules.batches import ImagePairBatch
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.denoising.sub_images import denoised_by_sub_images, through_sub_images
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training


class APBSN(RestorerSteps, MethodModule):
    """Train a blind-spot network on sub-images of noisy images, and denoise with sub-images of a smaller stride.

    Args:
        network: blind-spot denoiser of images `[B, C, H, W]`, such as `BlindSpotNetwork`.
        stride: stride s of the sub-images in training; the patch size must be divisible by this stride.
        test_stride: stride s of the sub-images in validation, test and prediction.
        perturbation: standard deviation of the Gaussian noise that is added to the training images at each step; 0 adds
            no noise. SDAP reports that this noise improves blind-spot networks.
        inference: tiling and self-ensemble in validation, test and prediction; tile size and overlap must be multiples
            of `test_stride`.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from datamodules.classification.digits import Digits
        >>> noisy = Digits().training().image[:4] / 16
        >>> APBSN(torch.nn.Conv2d(1, 1, 3, padding=1)).restore(noisy).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        stride: int = 5,
        test_stride: int = 2,
        perturbation: float = 0.0,
        inference: TiledInference = TiledInference(),  # noqa: B008 - immutable
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, stride=stride, test_stride=test_stride)
        at_least(0, perturbation=perturbation)
        self.network = network
        self.stride = stride
        self.test_stride = test_stride
        self.perturbation = perturbation
        self.inference = inference
        self.quality = ImageQuality()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, image: Tensor) -> Tensor:
        """Denoise images of any size through their sub-images."""
        return denoised_by_sub_images(self.network, image, self.test_stride)

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        noisy = batch["noisy"]
        if self.perturbation:
            noisy = noisy + self.perturbation * sample_rows_like(torch.randn, noisy)
        loss = F.l1_loss(through_sub_images(self.network, noisy, self.stride), noisy)
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
