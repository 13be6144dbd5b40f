"""Measure how many of the false labels a trained classifier gives back."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.interfaces import UNVERIFIED, Classifier, TrainingImageSource, require, require_data
from lightning_modules.training.evaluation_mode import classified
from lightning_modules.training.logging import log_same


class Memorization(Callback):
    """After testing, classifies the training images without augmentation, and logs

    * `test/memorized`: share of the falsely labelled ones that are given their false label,
    * `test/recovered`: share of the falsely labelled ones that are given their true label.

    Where labels have been corrected, the false ones are those that were given (`original_label`). Images whose label
    nobody has verified do not count.

    Needs a DataModule that knows the true training labels, as all do whose label noise is a corruption.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            require(pl_module, Classifier, "Memorization")
            require_data(trainer, TrainingImageSource, "Memorization")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = require_data(trainer, TrainingImageSource, "Memorization").training_images_dataloader()
        counts = torch.zeros(3, dtype=torch.int64, device=pl_module.device)
        for batch, logits in classified(trainer, pl_module, loader):
            if "clean_label" not in batch:
                return
            prediction = logits.argmax(dim=1)
            given = batch.get("original_label", batch["label"])
            false = (given != batch["clean_label"]) & (batch["clean_label"] != UNVERIFIED)
            counts[0] += false.sum()
            counts[1] += (false & (prediction == given)).sum()
            counts[2] += (false & (prediction == batch["clean_label"])).sum()
        false_labels, memorized, recovered = trainer.strategy.reduce(counts, reduce_op="sum")
        log_same(pl_module, "test/memorized", memorized / false_labels.clamp(min=1))
        log_same(pl_module, "test/recovered", recovered / false_labels.clamp(min=1))
