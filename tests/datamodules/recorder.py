"""A module that stores its batches and learns nothing, and a function that trains this module in a run directory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from experiments.saving.metrics_table import MetricsTable
from tests.trainers import quiet


class Recorder(LightningModule):
    """Keeps batches.

    Args:
        after_epoch: function of the module and its data, called after each training epoch.
    """

    def __init__(self, after_epoch: Callable[[Any, Any], None] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.after_epoch = after_epoch
        self.trained: list[dict[str, Any]] = []
        self.evaluated: list[dict[str, Any]] = []
        self.loaders: list[int] = []  # of the batches of `evaluated`

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.trained.append(batch)
        return self.weight * 0

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluated.append(batch)
        self.loaders.append(dataloader_idx)

    test_step = predict_step = validation_step

    def on_train_epoch_end(self) -> None:
        if self.after_epoch is not None:
            self.after_epoch(self, self.trainer.datamodule)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trained(
    data: Any, directory: Path, after_epoch: Callable[[Any, Any], None] | None = None, epochs: int = 1, **options: Any
) -> Recorder:
    """Train a recorder."""
    module, logger = Recorder(after_epoch), MetricsTable(directory)
    quiet(max_epochs=epochs, logger=logger, log_every_n_steps=1, **options).fit(module, datamodule=data)
    return module


def joined(batches: list[dict[str, Any]], key: str) -> Tensor:
    return torch.cat([batch[key] for batch in batches])


def in_order(batches: list[dict[str, Any]], key: str) -> Tensor:
    """Return the rows of an epoch, sorted by index."""
    index = joined(batches, "index")
    assert sorted(index.tolist()) == list(range(len(index)))
    return joined(batches, key)[index.argsort()]
