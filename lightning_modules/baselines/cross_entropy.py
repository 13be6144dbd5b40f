"""Train with cross-entropy: the baseline that memorises false labels.

    L = -(1/B) sum_i sum_c y_ic log softmax(z_i)_c

It first fits the pattern and later the false labels, example by example (Liu et al., 2020, section 3). The methods for
noisy labels are compared with it.

Source: Zhang, Bengio, Hardt, Recht and Vinyals, Understanding Deep Learning Requires Rethinking Generalization, ICLR
2017, arXiv 1611.03530.
"""

from typing import Any

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch
from lightning_modules.training.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_training
from lightning_modules.training.optimizers import built, constant, sgd, trainable


class CrossEntropy(ClassifierSteps, LightningModule):
    """Train any network with cross-entropy on the labels it is given.

    Args:
        network: maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        optimizer: built on the network's trainable parameters.
        lr_scheduler: stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["image"])
        loss = F.cross_entropy(logits, batch["label"])
        return {"loss": log_training(self, batch, loss), "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return built(self.optimizer, self.lr_scheduler, trainable(self.network))
