"""Training with cross-entropy, the baseline for methods that handle noisy labels.

    L = -(1/B) sum_i sum_c y_ic log softmax(z_i)_c

The generalised cross-entropy lies between it (q = 0) and the mean absolute error (q = 1), which false labels affect
less (Zhang and Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, NeurIPS
2018, arXiv 1805.07836, equation 6):

    L_q = (1/B) sum_i (1 - p_i^q) / q,    p_i = softmax(z_i)_{y_i}

A network that is trained with the cross-entropy first learns the pattern of the correct labels. Later, it memorises the
false labels, sample by sample (Liu et al., 2020, section 3).

Source: Zhang, Bengio, Hardt, Recht and Vinyals, Understanding Deep Learning Requires Rethinking Generalization, ICLR
2017, arXiv 1611.03530.
"""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.batches import LabelledImageBatch, LabelledTextBatch, network_input
from lightning_modules.losses.mixing import SoftLabels
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies, cross_entropy_step, refuse_smoothed
from lightning_modules.training.logging import log_training


def generalized_cross_entropy(logits: Tensor, label: Tensor, q: float) -> Tensor:
    """Average the loss over a batch of logits `[B, K]` and labels `[B]`; q in (0, 1]."""
    p = logits.log_softmax(dim=1).gather(1, label[:, None])
    return -torch.expm1(q * p).mean() / q


class CrossEntropy(ClassifierSteps, MethodModule):
    """Train an arbitrary network with the cross-entropy on the labels of the dataset.

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1], or tokenized texts, to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        soft_labels: settings of mixup, CutMix and label smoothing; None disables all three. If images are mixed, the
            training step returns no logits to callbacks.
        binary: whether to use the binary cross-entropy of each class. In this case, all classes that are part of a
            mixed image have the target 1, unless `soft_labels` has `all_right: false`.
        view: augmentation of the training images on the device, such as `lightning_modules.views.ThreeAugment`; None
            means no augmentation.
        q: exponent of the generalised cross-entropy, in [0, 1]; 0 is the cross-entropy. Any other q excludes
            `soft_labels`, `binary` and `view`.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        soft_labels: SoftLabels | None = None,
        binary: bool = False,
        view: nn.Module | None = None,
        q: float = 0.0,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        refuse_smoothed(soft_labels, binary)
        within(0, 1, q=q)
        if q and (soft_labels is not None or binary or view is not None):
            raise ValueError(f"q must be 0 with soft_labels, binary or view, got {q}")
        self.network = network
        self.num_classes = num_classes
        self.soft_labels = soft_labels
        self.binary = binary
        self.q = q
        self.view = view
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def forward(self, inputs: Any) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: LabelledImageBatch | LabelledTextBatch, batch_idx: int) -> dict[str, Tensor]:
        if not self.q:
            return cross_entropy_step(self, batch, self.soft_labels, self.binary, self.view)
        logits = self(network_input(batch))
        loss = log_training(self, batch, generalized_cross_entropy(logits, batch["label"], self.q))
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
