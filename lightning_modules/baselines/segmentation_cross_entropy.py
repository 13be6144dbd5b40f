"""Segmentation with cross-entropy, the baseline for ADELE.

    L = -mean_{b,h,w} log softmax(z)_y

A network that is trained with this loss memorises annotation errors. Pixels with the label 255 have loss 0, but count
in the mean, as in the code of ADELE's authors.

Source: Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, arXiv
1411.4038.
"""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import LabelledMaskBatch
from lightning_modules.losses.segmentation import pixel_cross_entropy
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import constant, sgd, with_schedule
from lightning_modules.optim.parameter_groups import learning_rate_groups, scale_learning_rates
from lightning_modules.tasks.segmenter import SegmenterSteps, confusion
from lightning_modules.training.logging import log_training


class SegmentationCrossEntropy(SegmenterSteps, MethodModule):
    """Train an arbitrary segmentation network with the cross-entropy on the labels of the dataset.

    Args:
        network: network that maps images `[B, C, H, W]` to logits `[B, num_classes, H, W]`.
        num_classes: number of categories, including the background.
        new_layers: names of submodules that have no pretrained weights. Their learning rate is ten times that of the
            other layers (see `learning_rate_groups`). If empty, all parameters have the same learning rate.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule. It is stepped every epoch, or every step if it has `interval = "step"`.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        new_layers: Sequence[str] = (),
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        learning_rate_groups(network, new_layers)
        self.network = network
        self.num_classes = num_classes
        self.new_layers = new_layers
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = confusion(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledMaskBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["image"])
        loss = pixel_cross_entropy(logits, batch["label"])
        return {"loss": log_training(self, batch, loss), "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(learning_rate_groups(self.network, self.new_layers))
        scale_learning_rates(optimizer)
        return with_schedule(optimizer, self.lr_scheduler)
