"""Fine-tuning of a pre-trained encoder: classify images at a single noise level in one forward pass."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from datamodules.arguments import at_least, positive, within
from datamodules.batches import LabelledImageBatch
from lightning_modules.backbones.weights import load, on_meta, read_weights
from lightning_modules.losses.mixing import SoftLabels
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, with_schedule
from lightning_modules.optim.parameter_groups import optimizer_with_layer_decay
from lightning_modules.robustness.certificates.statistics import gaussian_radius
from lightning_modules.robustness.rrcm.noise_conditioned import NoiseConditionedClassifier
from lightning_modules.robustness.smoothed_training.consistency_regularization import loss_on_copies
from lightning_modules.robustness.smoothed_training.noisy_copies import AccuracyUnderNoise, noisy_copies
from lightning_modules.training.logging import log_training


def pretrained_encoder(
    network: nn.Module, path: str, copy: Literal["average", "network", "target_network"] = "average"
) -> nn.Module:
    """Load the weights of an encoder from a checkpoint of `RRCMPretraining`.

    If `network` is on the meta device, no file is read.

    Args:
        network: encoder with the pre-trained architecture. Its final norm may be replaced with `nn.Identity`, as for
            CIFAR-10.
        path: checkpoint file, or a folder that contains a checkpoint.
        copy: copy of the weights to load: the slow moving average (`average`), the trained network (`network`), or the
            target network (`target_network`).

    Returns:
        `network` itself.

    Raises:
        FileNotFoundError: if there is no checkpoint at `path`.
        ValueError: if the checkpoint is damaged, is not from `RRCMPretraining`, or contains a different network.
    """
    if on_meta(network):
        return network
    weights = read_weights(path, f"{copy}.")
    if isinstance(getattr(network, "norm", None), nn.Identity):
        weights = {name: value for name, value in weights.items() if not name.startswith("norm.")}
    load(network, weights, path)
    return network


class RRCM(AccuracyUnderNoise, MethodModule):
    """Fine-tune a noise-conditioned encoder and a linear head for randomised smoothing.

    Args:
        network: encoder that maps images `[B, C, H, W]` and times `[B]` to features `[B, num_features]`.
            `pretrained_encoder` loads weights from a run of `RRCMPretraining`.
        num_features: number of features of the encoder.
        num_classes: number of classes, K.
        sigma: standard deviation of the noise in training, validation and test, in pixel units: the noise level that is
            to be certified.
        num_copies: number m of noisy copies per image in a training step.
        consistency_weight: weight lambda of the KL divergence between the mean prediction and the prediction for each
            copy.
        entropy_weight: weight eta of the entropy of the mean prediction.
        view: augmentation of the training images on the device, such as `lightning_modules.views.TimmRandAugment`; None
            means no augmentation.
        soft_labels: settings of mixup and label smoothing; None disables both. If mixup is enabled, the training step
            does not return logits for callbacks.
        layer_decay: ratio d between the learning rates of successive blocks, in (0, 1]; see `optim.parameter_groups`.
        optimizer: optimizer of the trainable parameters of the encoder and the head.
        lr_scheduler: learning-rate schedule. It is stepped every epoch, or every step if it has `interval = "step"`.
    """

    certificate = "Cohen et al. 2019"

    def __init__(
        self,
        network: nn.Module,
        num_features: int,
        num_classes: int,
        sigma: float = 0.25,
        num_copies: int = 2,
        consistency_weight: float = 10.0,
        entropy_weight: float = 0.5,
        view: nn.Module | None = None,
        soft_labels: SoftLabels | None = None,
        layer_decay: float = 0.75,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(sigma=sigma)
        at_least(1, num_copies=num_copies, num_features=num_features)
        at_least(0, consistency_weight=consistency_weight, entropy_weight=entropy_weight)
        within(0, 1, "(]", layer_decay=layer_decay)
        self.network = NoiseConditionedClassifier(network, num_features, num_classes, sigma)
        self.num_classes = num_classes
        self.sigma = sigma
        self.num_copies = num_copies
        self.consistency_weight = consistency_weight
        self.entropy_weight = entropy_weight
        self.view = view
        self.soft_labels = soft_labels
        self.layer_decay = layer_decay
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    @property
    def encoder(self) -> nn.Module:
        """The encoder h, without the head."""
        return self.network.encoder

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image, label = batch["image"], batch["label"]
        image = image if self.view is None else self.view(image)
        if self.soft_labels is not None:
            image, label = self.soft_labels(image, label, self.num_classes)
        copies = noisy_copies(image, self.sigma, self.num_copies)
        logits = self(copies.flatten(end_dim=1)).unflatten(0, copies.shape[:2])
        loss = loss_on_copies(logits, label, self.consistency_weight, self.entropy_weight)
        loss = log_training(self, batch, loss)
        mixed = self.soft_labels is not None and self.soft_labels.mixes
        return {"loss": loss} if mixed else {"loss": loss, "logits": logits[0].detach()}

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Compute the logits `[1, B, K]` of noisy images in one forward pass.

        The network is conditioned on the noise level `sigma` of the certification.
        """
        noisy = torch.add(image, noise, alpha=sigma)
        return self.network(noisy.to(next(self.network.parameters()).dtype), sigma)[None]

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        return gaussian_radius(probability[0], sigma)

    def configure_optimizers(self) -> Any:
        network = self.network
        optimizer = optimizer_with_layer_decay(self.optimizer, network.encoder, network.head, self.layer_decay)
        return with_schedule(optimizer, self.lr_scheduler)
