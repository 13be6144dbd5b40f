"""The LightningModule of an ensemble of networks of finite width with random scales."""

from typing import Any

import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_training


class ScaleMixtureEnsemble(ClassifierSteps, MethodModule):
    """Train networks side by side, each by cross-entropy, and classify by the mean of their logits.

    Args:
        network: `FiniteNetworks`, or these in `Normalized`: maps images to logits `[B, C, E]`.
        num_classes: C.
        optimizer: built on the network's trainable parameters.
        lr_scheduler: stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Give the mean logits, `[B, C]`, of images in [0, 1]."""
        return self.network(image).mean(dim=2)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self.network(batch["image"])
        members = logits.shape[2]
        of_all = F.cross_entropy(logits, batch["label"][:, None].expand(-1, members))
        loss = log_training(self, batch, members * of_all)
        return {"loss": loss, "logits": logits.detach().mean(dim=2)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
