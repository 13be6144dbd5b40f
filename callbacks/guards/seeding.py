"""Make the random numbers of a batch depend on the position of the batch, but not on earlier batches."""

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
    """Seed PyTorch's generators on the CPU and on `device`.

    `torch.manual_seed` is not used, because it records the call stack for each kind of accelerator that is missing.
    This takes longer than a training step of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        module = torch.get_device_module(device)
        getattr(module, "manual_seed_all" if hasattr(module, "manual_seed_all") else "manual_seed")(seed)


class SeedEveryBatch(Callback):
    """Seed the random generators before each batch from (seed, stage, epoch, batch).

    A resumed run therefore has the same dropout, mixup and noise as an uninterrupted run, and generator states need not
    be saved. Random numbers of individual samples (`sample_rows`) are the same for any world size. PyTorch's
    generators, which networks use for dropout, are seeded differently on each rank.

    Args:
        seed: seed from which the seeds of all batches are derived; None uses the value of `seed_everything`.
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
