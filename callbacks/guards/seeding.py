"""Let the random numbers of a batch depend on where the batch is, not on what was drawn before it."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.random_numbers import run_seed, seed_of


class SeedEveryBatch(Callback):
    """Seeds the global random generators before each batch from (seed, stage, epoch, batch, process).

    So dropout, mixup and noise are the same after an interruption as without it, and no generator's state has to be
    saved.

    Args:
        seed: seed of all batches; None takes that of `seed_everything`.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.seed is None:
            self.seed = run_seed()

    def _seed(self, trainer: Trainer, stage: int, batch_idx: int, dataloader_idx: int = 0) -> None:
        place = (stage, trainer.current_epoch, batch_idx, dataloader_idx, trainer.global_rank)
        seed = seed_of(self.seed or 0, *place)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from it
        random.seed(seed)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._seed(trainer, 0, batch_idx)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, 1, batch_idx, dataloader_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, 2, batch_idx, dataloader_idx)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, 3, batch_idx, dataloader_idx)
