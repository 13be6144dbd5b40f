"""Measure a classifier on imbalanced datasets by macro-averaged scores, in which every class has the same weight."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAUROC, MulticlassF1Score, MulticlassPrecision, MulticlassRecall

from datamodules.distributed.collectives import all_reduce_sum
from lightning_modules.interfaces import Classifier, require
from lightning_modules.training.logging import log_same


class MacroScores(Callback):
    """Log macro averages, that is, unweighted means over classes, for the test images:

    * `test/macro_precision`, `test/macro_recall` (the balanced accuracy) and `test/macro_f1`;
    * `test/macro_auroc`: the one-vs-rest area under the ROC curve.

    A class is left out of the averages of precision, recall and F1 if it has no test images and is never predicted. It
    is left out of `test/macro_auroc` if it has no test images. The logits of all test images are kept on the device
    until the test ends.
    """

    def __init__(self) -> None:
        self.scores: MetricCollection | None = None
        self.images: Tensor = torch.zeros(0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require(pl_module, Classifier, "MacroScores")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classes = require(pl_module, Classifier, "MacroScores").num_classes
        means: dict[str, Any] = {
            name: kind(classes, average="macro", validate_args=False)
            for name, kind in (
                ("precision", MulticlassPrecision),
                ("recall", MulticlassRecall),
                ("f1", MulticlassF1Score),
            )
        }
        areas = MulticlassAUROC(classes, average="none", validate_args=False)
        self.scores = MetricCollection(means | {"auroc": areas}, prefix="test/macro_").to(pl_module.device)
        self.images = torch.zeros(classes, dtype=torch.int64, device=pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            raise TypeError(f"test_step of {type(pl_module).__name__} must return a dict with 'logits' for MacroScores")
        assert self.scores is not None
        self.scores.update(outputs["logits"].float(), batch["label"])
        self.images += batch["label"].bincount(minlength=len(self.images))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.scores is not None
        present = all_reduce_sum(self.images) > 0
        for name, value in self.scores.compute().items():
            log_same(pl_module, name, value[present].mean() if value.ndim else value)
        self.scores = None
