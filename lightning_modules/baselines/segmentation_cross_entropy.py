"""Segmentation with cross-entropy: the baseline that memorises the errors of its annotations.

    L = -mean_{b,h,w} log softmax(z)_y

Pixels of label 255 have a loss of 0 and count in the mean, as in the authors' code of ADELE, which this baseline is
trained beside.

Source: Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, arXiv
1411.4038.
"""

from collections.abc import Sequence
from typing import Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import LabelledMaskBatch, global_size, share
from lightning_modules.losses.segmentation import pixel_cross_entropy
from lightning_modules.training.optimizers import constant, sgd
from lightning_modules.training.parameter_groups import learning_rate_groups, scale_learning_rates
from lightning_modules.training.segmenter import SegmenterSteps, confusion


class SegmentationCrossEntropy(SegmenterSteps, LightningModule):
    """Trains any segmenter with cross-entropy on the labels it is given.

    Args:
        network: maps images `[B, C, H, W]` to logits `[B, num_classes, H, W]`.
        num_classes: number of categories, K, with the background.
        new_layers: names of submodules of a pretrained network that are trained from scratch, at ten times the learning
            rate (see `learning_rate_groups`); without any, all parameters have the same.
        optimizer: built on the network's trainable parameters.
        lr_scheduler: stepped every `lr_interval`.
        lr_interval: epoch, or step for a schedule whose numbers count batches.

    Raises:
        ValueError: if `lr_interval` is neither, or `new_layers` names no submodule.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        new_layers: Sequence[str] = (),
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
        lr_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__()
        if lr_interval not in ("epoch", "step"):
            raise ValueError(f"lr_interval must be epoch or step, got {lr_interval!r}")
        learning_rate_groups(network, new_layers)
        self.network = network
        self.num_classes = num_classes
        self.new_layers = new_layers
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.metrics = confusion(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledMaskBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["image"])
        loss = share(batch) * pixel_cross_entropy(logits, batch["label"])
        self.log(
            "train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=global_size(batch), sync_dist=True
        )
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self):
        optimizer = self.optimizer(learning_rate_groups(self.network, self.new_layers))
        scale_learning_rates(optimizer)
        scheduler = self.lr_scheduler(optimizer)
        return [optimizer], [scheduler if self.lr_interval == "epoch" else {"scheduler": scheduler, "interval": "step"}]
