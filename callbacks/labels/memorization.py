"""Measure how many false labels a trained classifier has memorised."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.interfaces import UNVERIFIED, Classifier, TrainingImageSource, require, require_data
from lightning_modules.training.evaluation_mode import iterate_logits
from lightning_modules.training.logging import log_same


class Memorization(Callback):
    """After testing, classify the training images without augmentation and log two metrics:

    * `test/memorized`: fraction of falsely labelled images that are predicted as their false label,
    * `test/recovered`: fraction of falsely labelled images that are predicted as their true label.

    An image is falsely labelled if its given label is wrong. If the method corrects labels, the given label is the one
    before the correction (`original_label`). Images whose true label is not verified are left out.

    The DataModule must provide the true training labels. It does so if its label noise comes from
    `datamodules.corruptions`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            require(pl_module, Classifier, "Memorization")
            require_data(trainer, TrainingImageSource, "Memorization")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = require_data(trainer, TrainingImageSource, "Memorization").training_images_dataloader()
        counts = torch.zeros(3, dtype=torch.int64, device=pl_module.device)
        for batch, logits in iterate_logits(trainer, pl_module, loader):
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
