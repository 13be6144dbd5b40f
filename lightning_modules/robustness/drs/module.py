"""LightningModule of dual randomised smoothing; the package docstring describes the method."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from datamodules.arguments import at_least, positive
from datamodules.batches import LabelledImageBatch
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.robustness.drs.checkerboard import Partition, first_half, half
from lightning_modules.robustness.drs.radius import joint_radius, published_radius_cifar10, published_radius_imagenet
from lightning_modules.robustness.mean_prediction import log_mean_softmax
from lightning_modules.robustness.smoothed_training.consistency_regularization import loss_on_copies
from lightning_modules.robustness.smoothed_training.noisy_copies import AccuracyUnderNoise, noisy_copies
from lightning_modules.training.logging import log_training

CERTIFICATES = {
    "joint": "Xia et al. 2024, joint radius",
    "published_cifar10": "Xia et al. 2024, formula of the code for CIFAR-10: not a guarantee",
    "published_imagenet": "Xia et al. 2024, formula of the code for ImageNet: not a guarantee",
}
PROBABILITY_FLOOR = 1e-6
"""Probabilities in the regularisation are clamped to at least this value, as in the authors' code."""


class DRS(AccuracyUnderNoise, MethodModule):
    """Train the two base classifiers of dual randomised smoothing.

    The callback `Certification` certifies the classifier that sums their vote probabilities.

    Args:
        network: classifier f_l of the first half. This half is expanded to images `[B, C, H, W]`, which f_l maps to
            logits `[B, num_classes]`.
        second_network: classifier f_r of the second half, with the same architecture and separate weights.
        num_classes: number of classes, K.
        sigma: standard deviation of the noise in training, in pixel units.
        num_copies: number m of noisy copies per image in a training step; with 1, the loss is only the cross-entropy
            under noise.
        consistency_weight: weight lambda of the KL divergence between the mean prediction and the prediction for each
            copy.
        entropy_weight: weight eta of the entropy of the mean prediction.
        partition: how an image is split into halves, and how a half is expanded.
        radius: formula of the certified radius. `joint` is the formula of the theorem. `published_cifar10` and
            `published_imagenet` reproduce the authors' logs. With these two, also set `alpha: 0.002` in
            `Certification`, because the authors use 0.001 for each of the two votes. The published radii are not
            guaranteed to be valid; `certification_settings.json` records this.
        second_noise: standard deviation of the noise in the second half, as a multiple of that in the first half, in
            training and in `Certification`. It must be 1 with a published radius.
        optimizer: optimizer of the trainable parameters of both networks.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        second_network: nn.Module,
        num_classes: int,
        sigma: float = 0.18,
        num_copies: int = 1,
        consistency_weight: float = 15.0,
        entropy_weight: float = 0.75,
        partition: Partition = Partition(),  # noqa: B008 - immutable
        radius: Literal["joint", "published_cifar10", "published_imagenet"] = "joint",
        second_noise: float = 1.0,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(sigma=sigma, second_noise=second_noise)
        if radius != "joint" and second_noise != 1:
            raise ValueError(f"second_noise must be 1 with radius {radius}, got {second_noise}")
        at_least(1, num_copies=num_copies)
        at_least(0, consistency_weight=consistency_weight, entropy_weight=entropy_weight)
        self.network = network
        self.second_network = second_network
        self.num_classes = num_classes
        self.sigma = sigma
        self.num_copies = num_copies
        self.consistency_weight = consistency_weight
        self.entropy_weight = entropy_weight
        self.partition = partition
        self.radius = radius
        self.second_noise = second_noise
        self.certificate = CERTIFICATES[radius]
        if second_noise != 1:
            self.certificate += f", noise of the second half times {second_noise:g}"
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def extra_repr(self) -> str:
        return f"fill={self.partition.fill}, layout={self.partition.layout}"

    def halves(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of f_l and f_r for images `[B, C, H, W]`; both have the shape of the images."""
        mask = first_half(image.shape[2], image.shape[3], self.partition.layout, image.device)
        return half(image, mask, self.partition.fill), half(image, ~mask, self.partition.fill)

    def with_noise(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Add noise of standard deviation sigma to the first half, and of sigma times `second_noise` to the second."""
        if self.second_noise != 1:
            mask = first_half(image.shape[-2], image.shape[-1], self.partition.layout, image.device)
            noise = noise * torch.where(mask, 1.0, self.second_noise).to(noise.dtype)
        return torch.add(image, noise, alpha=sigma)

    def votes(self, image: Tensor) -> Tensor:
        """Compute the logits `[2, B, K]`: f_l of the first half of each image, and f_r of the second half."""
        first, second = self.halves(image)
        return torch.stack([self.network(first), self.second_network(second)])

    def noisy(self, image: Tensor, num_copies: int) -> Tensor:
        if self.second_noise == 1:
            return super().noisy(image, num_copies)
        noise = noisy_copies(torch.zeros_like(image), 1.0, num_copies)
        return self.with_noise(image, noise, self.sigma)

    def forward(self, image: Tensor) -> Tensor:
        return log_mean_softmax(self.votes(image))

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        copies = self.noisy(batch["image"], self.num_copies)
        logits = self.votes(copies.flatten(end_dim=1)).unflatten(1, copies.shape[:2])
        first, second = (
            loss_on_copies(each, batch["label"], self.consistency_weight, self.entropy_weight, PROBABILITY_FLOOR)
            for each in logits
        )
        loss = log_training(self, batch, first + second)
        return {"loss": loss, "logits": log_mean_softmax(logits[:, 0].detach())}

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Compute the logits `[2, B, K]` of f_l and f_r for noisy images.

        Both halves of an image share one full-size noise sample, because the halves have no pixel in common.
        """
        noisy = self.with_noise(image, noise, sigma)
        return self.votes(noisy.to(next(self.network.parameters()).dtype))

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        if self.radius == "published_cifar10":
            return published_radius_cifar10(probability, sigma)
        if self.radius == "published_imagenet":
            return published_radius_imagenet(probability, sigma)
        return joint_radius(probability, [sigma, sigma * self.second_noise])

    def configure_optimizers(self) -> Any:
        return optimizer_config(
            self.optimizer, self.lr_scheduler, trainable_parameters(self.network, self.second_network)
        )
