"""How many of the false labels a trained classifier gives back."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.interfaces import UNVERIFIED, Classifier, TrainingImageSource, require
from lightning_modules.training.evaluation_mode import in_evaluation_mode


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
            require(trainer.datamodule, TrainingImageSource, "Memorization")  # type: ignore[attr-defined]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        counts = torch.zeros(3, dtype=torch.int64, device=pl_module.device)
        for number, cpu_batch in enumerate(data.training_images_dataloader()):
            if trainer.fast_dev_run and number == trainer.fast_dev_run:  # type: ignore[attr-defined]
                break
            batch: Any = trainer.strategy.batch_to_device(cpu_batch)
            if "clean_label" not in batch:
                return
            with in_evaluation_mode(trainer, pl_module) as network:
                prediction = network(batch["image"]).argmax(dim=1)
            given = batch.get("original_label", batch["label"])
            false = (given != batch["clean_label"]) & (batch["clean_label"] != UNVERIFIED)
            counts[0] += false.sum()
            counts[1] += (false & (prediction == given)).sum()
            counts[2] += (false & (prediction == batch["clean_label"])).sum()
        counts = trainer.strategy.reduce(counts, reduce_op="sum")
        for name, count in {"memorized": counts[1], "recovered": counts[2]}.items():
            share = count / counts[0].clamp(min=1)
            pl_module.log(f"test/{name}", share, reduce_fx="max", sync_dist=True)  # the same on all processes
