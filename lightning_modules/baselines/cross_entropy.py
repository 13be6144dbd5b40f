"""Training with cross-entropy, the baseline for methods that handle noisy labels.

    L = -(1/B) sum_i sum_c y_ic log softmax(z_i)_c

A network that is trained with the cross-entropy first learns the pattern of the correct labels. Later, it memorises the
false labels, sample by sample (Liu et al., 2020, section 3).

Source: Zhang, Bengio, Hardt, Recht and Vinyals, Understanding Deep Learning Requires Rethinking Generalization, ICLR
2017, arXiv 1611.03530.
"""

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch, LabelledTextBatch
from lightning_modules.losses.mixing import SoftLabels
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies, cross_entropy_step, refuse_smoothed


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
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        refuse_smoothed(soft_labels, binary)
        self.network = network
        self.num_classes = num_classes
        self.soft_labels = soft_labels
        self.binary = binary
        self.view = view
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def forward(self, inputs: Any) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: LabelledImageBatch | LabelledTextBatch, batch_idx: int) -> dict[str, Tensor]:
        return cross_entropy_step(self, batch, self.soft_labels, self.binary, self.view)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
