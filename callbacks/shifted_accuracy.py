"""How accurate a classifier remains where test images are distributed differently from its training images."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.interfaces import Classifier, ShiftedTestSets, require
from lightning_modules.training.evaluation_mode import in_evaluation_mode


class ShiftedAccuracy(Callback):
    """After testing, classifies the DataModule's shifted test sets, and logs

    * `test/accuracy_<set>`: top-1 accuracy on each;
    * `test/ood_accuracy`: their mean, each set counting once.

    `test/accuracy` stays that of the usual test set. Where a set has only some of the classes, the prediction is the
    most probable of those, as is usual for ImageNet-R and ImageNet-A.

    Needs a DataModule with `shifted_test_loaders`. Each process classifies its share of the images. That a
    set is missing or damaged, or that there is none, is told before the training begins, and not after it.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage not in ("fit", "test"):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        require(pl_module, Classifier, "ShiftedAccuracy")
        require(data, ShiftedTestSets, "ShiftedAccuracy")
        data.check_shifted_tests()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        accuracies = []
        for name, loader in data.shifted_test_loaders().items():
            counts = torch.zeros(2, dtype=torch.int64, device=pl_module.device)  # right, all
            for number, cpu_batch in enumerate(loader):
                if trainer.fast_dev_run and number == trainer.fast_dev_run:  # type: ignore[attr-defined]
                    break
                batch: Any = trainer.strategy.batch_to_device(cpu_batch)
                with in_evaluation_mode(trainer, pl_module) as network:
                    logits = network(batch["image"])
                if "classes" in batch:
                    predicted = batch["classes"][logits[:, batch["classes"]].argmax(dim=1)]
                else:
                    predicted = logits.argmax(dim=1)
                counts[0] += (predicted == batch["label"]).sum()
                counts[1] += len(predicted)
            right, every = trainer.strategy.reduce(counts, reduce_op="sum")
            accuracies.append(right / every)
            pl_module.log(f"test/accuracy_{name}", accuracies[-1], reduce_fx="max", sync_dist=True)  # the same on all
        pl_module.log("test/ood_accuracy", torch.stack(accuracies).mean(), reduce_fx="max", sync_dist=True)
