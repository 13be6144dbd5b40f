"""Training on single noisy images with Stein's unbiased risk estimate (SURE).

Let y = x + n be noisy images, where n is Gaussian noise of known variance v. The loss

    L = mean (f(y) - y)^2 - v + 2 v div f(y) / N

has the same expected value as the mean squared error with respect to x. N is the number of values of an image. The
divergence is estimated from one random vector b, whose values are 1 or -1, and a small step epsilon:

    div f(y) = b^T (f(y + epsilon b) - f(y)) / epsilon.

Source: Soltanayev and Chun, Training Deep Learning Based Denoisers without Ground Truth Data, NeurIPS 2018, arXiv
1803.01314; the divergence follows Ramani, Blu and Unser, IEEE Transactions on Image Processing 2008. Soltanayev and
Chun sample b from a normal distribution. With random signs, as here, the estimate has the same mean and a smaller
variance.
"""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import positive
from datamodules.batches import ImagePairBatch
from datamodules.corruptions.image_noise import Gaussian
from datamodules.corruptions.image_noise.interface import level_of
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.interfaces import NoiseSource, data_with
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training


def sure(network: nn.Module, noisy: Tensor, sign: Tensor, sigma: float, epsilon: float) -> Tensor:
    """Compute the loss L, averaged over a batch.

    Args:
        network: network that maps noisy images to estimates of the clean images.
        noisy: noisy images y, `[B, C, H, W]`.
        sign: random signs b, of the shape of `noisy`, with values -1 and 1.
        sigma: standard deviation of the noise.
        epsilon: step size of the finite difference.
    """
    estimate, moved = network(torch.cat([noisy, noisy + epsilon * sign])).chunk(2)
    divergence = (sign * (moved - estimate)).mean() / epsilon
    return (estimate - noisy).square().mean() - sigma**2 + 2 * sigma**2 * divergence


class SURE(RestorerSteps, MethodModule):
    """Train an arbitrary network with SURE, on single images with Gaussian noise of a known level.

    Args:
        network: network that maps noisy images `[B, C, H, W]` to estimates of the clean images, of the same shape. It
            must not contain layers that normalise by batch statistics.
        noise: noise model of the images, with a single noise level.
        epsilon: step size of the finite difference that estimates the divergence.
        inference: padding, tiles and self-ensemble of the network in validation, test and prediction.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from datamodules.corruptions.image_noise import Gaussian
        >>> noisy = torch.full((4, 1, 8, 8), 0.5)
        >>> SURE(torch.nn.Identity(), Gaussian(0.1)).restore(noisy).equal(noisy)
        True
    """

    def __init__(
        self,
        network: nn.Module,
        noise: Gaussian,
        epsilon: float = 1e-3,
        inference: TiledInference = TiledInference(),  # noqa: B008 - it does not change
        protocol: EvaluationProtocol = "rounded",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(epsilon=epsilon)
        self.network = network
        self.noise = noise
        self.sigma = level_of(noise.grey_levels, "noise.grey_levels") / 255
        self.epsilon = epsilon
        self.inference = inference
        self.quality = ImageQuality(protocol)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def setup(self, stage: str) -> None:
        data = data_with(self.trainer, NoiseSource)
        if data is not None and data.noise not in (None, self.noise):
            raise ValueError(f"model.noise is {self.noise}, but data.noise is {data.noise}: they must match")

    def forward(self, noisy: Tensor) -> Tensor:
        return self.network(noisy)

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        noisy = batch["noisy"]
        normal = sample_rows_like(torch.randn, noisy)
        sign = torch.where(normal < 0, -1.0, 1.0).to(noisy)
        return {"loss": log_training(self, batch, sure(self, noisy, sign, self.sigma, self.epsilon))}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
