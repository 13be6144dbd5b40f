"""A module that keeps the batches it is given."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from datamodules.segmentation.labelled_masks import LabelledMasks
from experiments.run_directory import MetricsTable
from tests.trainers import quiet


class Recorder(LightningModule):
    """Keeps batches; can turn category 1 to 2 in the masks of every other image after the first epoch."""

    def __init__(self, corrects: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.corrects = corrects
        self.trained: list[dict[str, Any]] = []
        self.evaluated: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.trained.append(batch)
        return self.weight * batch["image"].sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluated.append(batch)

    test_step = validation_step

    def on_train_epoch_end(self) -> None:
        if self.corrects and self.current_epoch == 0:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            for batch in data.training_images_dataloader():
                every_other = batch["index"] % 2 == 0
                data.correct_labels(batch["index"][every_other], corrected(batch["label"][every_other]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def corrected(label: Tensor) -> Tensor:
    return torch.where(label == 1, 2, label)


def trained(data: LabelledMasks, directory: Path, corrects: bool = False, epochs: int = 1, **options: Any) -> Recorder:
    """Train in a run directory."""
    module = Recorder(corrects)
    quiet(max_epochs=epochs, logger=MetricsTable(directory), log_every_n_steps=1, **options).fit(
        module, datamodule=data
    )
    return module
