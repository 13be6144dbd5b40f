"""Measure the accuracy of a classifier under distribution shift."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.interfaces import Classifier, ShiftedTestSets, require, require_data
from lightning_modules.training.evaluation_mode import iterate_logits
from lightning_modules.training.logging import log_same


class ShiftedAccuracy(Callback):
    """After testing, classify the shifted test sets of the DataModule and log these metrics:

    * `test/accuracy_<set>`: top-1 accuracy on each shifted test set;
    * `test/ood_accuracy`: mean of these accuracies, with equal weight for each set.

    `test/accuracy` remains the accuracy on the usual test set. If a shifted test set has only some of the classes, the
    prediction is the most probable of these classes, as is common for ImageNet-R and ImageNet-A.

    The DataModule must have shifted test sets (see `ShiftedTestSets`). A missing or damaged set is reported before
    training. Images are sharded over ranks.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage in ("fit", "test"):
            require(pl_module, Classifier, "ShiftedAccuracy")
            require_data(trainer, ShiftedTestSets, "ShiftedAccuracy").check_shifted_tests()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = require_data(trainer, ShiftedTestSets, "ShiftedAccuracy")
        accuracies = []
        for name, loader in data.shifted_test_loaders().items():
            counts = torch.zeros(2, dtype=torch.int64, device=pl_module.device)  # correct, total
            for batch, logits in iterate_logits(trainer, pl_module, loader):
                if "classes" in batch:
                    predicted = batch["classes"][logits[:, batch["classes"]].argmax(dim=1)]
                else:
                    predicted = logits.argmax(dim=1)
                counts[0] += (predicted == batch["label"]).sum()
                counts[1] += len(predicted)
            right, every = trainer.strategy.reduce(counts, reduce_op="sum")
            accuracies.append(right / every)
            log_same(pl_module, f"test/accuracy_{name}", accuracies[-1])
        log_same(pl_module, "test/ood_accuracy", torch.stack(accuracies).mean())
