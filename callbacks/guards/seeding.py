"""Let the random numbers of a batch depend on where the batch is, not on what was drawn before it."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.distributed.collectives import run_seed, world_size
from datamodules.randomness.generators import seed_of
from datamodules.randomness.shared_batches import begin_batch, end_batch


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the host and of the device that is used.

    `torch.manual_seed` also notes where it was called from for each kind of accelerator that is not there, which takes
    longer than a small network's step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        module = torch.get_device_module(device)
        getattr(module, "manual_seed_all" if hasattr(module, "manual_seed_all") else "manual_seed")(seed)


class SeedEveryBatch(Callback):
    """Seeds random generators before each batch from (seed, stage, epoch, batch).

    So dropout, mixup and noise are the same after an interruption as without it, and no generator's state has to be
    saved. What a step draws for its samples is the same on any number of processes (`sample_rows`); several processes
    have torch's own generators, from which networks draw their dropout, each seeded by its number, too.

    Args:
        seed: seed of all batches; None takes that of `seed_everything`.
    """

    seeds_batches = True

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.seed is None:
            self.seed = run_seed()

    def _seed(self, trainer: Trainer, batch: Any, stage: int, batch_idx: int, dataloader_idx: int = 0) -> None:
        place = (self.seed or 0, stage, trainer.current_epoch, batch_idx, dataloader_idx)
        seed = seed_of(*place, 0)
        begin_batch(seed, batch.get("global_batch_size") if isinstance(batch, Mapping) else None)
        if world_size() > 1:
            seed = seed_of(*place, trainer.global_rank + 1)
        seed_torch(seed, trainer.strategy.root_device)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from it
        random.seed(seed)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._seed(trainer, batch, 0, batch_idx)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, batch, 1, batch_idx, dataloader_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, batch, 2, batch_idx, dataloader_idx)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._seed(trainer, batch, 3, batch_idx, dataloader_idx)

    def on_train_batch_end(self, *_: Any) -> None:
        end_batch()

    def on_validation_batch_end(self, *_: Any) -> None:
        end_batch()

    def on_test_batch_end(self, *_: Any) -> None:
        end_batch()

    def on_predict_batch_end(self, *_: Any) -> None:
        end_batch()
