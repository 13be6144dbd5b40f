"""Base class of DataModules whose sampling order depends only on (seed, epoch).

Batches are sharded over ranks and augmented on the device. A run can be resumed within an epoch.

All DataModules with a fixed training set derive from this class, whatever their samples are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.arguments import at_least
from datamodules.distributed.collectives import run_seed
from datamodules.loading.arguments import Loading
from datamodules.loading.global_batches import GlobalBatches, Request

RESUME_MAY_CHANGE = (
    *("num_workers", "evaluation_batch_size", "encoder_batch_size", "predict_dir", "cache_dir", "data_dir"),
    *("download", "imagenet_dir", "clean_dir", "noisy_dir", "mask_dir", "condition_dir", "pseudo_label_dir"),
    *("speech_dir", "noise_dir"),
)
"""Arguments, also of the datasets, that set where data are and how fast they are read, but not what is read."""


class RequestedSet(Protocol):
    """Dataset that is indexed by a `Request` and returns a whole batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, request: Request) -> dict[str, Any]:
        """Return a batch with the keys `index` and `global_batch_size` and with the keys of the dataset.

        If the batch is augmented on the device, it also has the key `epoch`, which is removed after augmentation.
        """
        ...


class SeededLoader(DataLoader):
    """DataLoader that determines the epoch, and starts its workers, when the first batch is requested.

    Lightning creates the iterator of a resumed run before it knows the epoch, so workers would prefetch the batches of
    another epoch. If the number of steps is limited, Lightning may also call `set_epoch` with another number than the
    trainer's `current_epoch`.
    """

    current_epoch: Callable[[], int] | None = None
    """Function that returns the epoch of the trainer. None means the epoch of the sampler."""

    def __iter__(self) -> Any:
        if self.current_epoch is not None:
            self.sampler.set_epoch(self.current_epoch())  # type: ignore[attr-defined]
        yield from super().__iter__()


def seeded_loader(
    samples: Any, batches: GlobalBatches, num_workers: int, prefetch_factor: int, seed: int, collate_fn: Any
) -> SeededLoader:
    """Return a DataLoader whose dataset is indexed by whole requests."""
    return SeededLoader(
        samples,
        sampler=batches,
        batch_size=None,
        collate_fn=collate_fn,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        generator=torch.Generator().manual_seed(seed),
    )


class NotReadYet(RuntimeError):
    """Raised for a split that `setup` has not created."""


class FinishedBatch(dict[str, Any]):
    """Batch that is already augmented and converted."""


class SeededBatches(LightningDataModule, ABC):
    """DataModule with seeded DataLoaders for training, validation and testing.

    In a loop over a DataLoader outside of a Trainer, batches are as described in `datamodules.batches`, with float32
    images in [0, 1]. While a Trainer runs, it moves stored pixel values to its device, and converts them there.

    The order of training samples depends only on (seed, epoch), not on the number of ranks. A run that was interrupted
    within an epoch resumes at the same batch.

    Args:
        batch_size: global training batch size, over all ranks.
        loading: how batches are read, and the seed.
    """

    train_set: RequestedSet | None
    validation_set: RequestedSet | None
    test_set: RequestedSet | None
    predict_set: RequestedSet | None
    """Dataset for `predict`. None means the test set."""
    resume_may_change: Collection[str] = RESUME_MAY_CHANGE
    shuffle: bool = True
    """Whether training samples are shuffled in each epoch. It is false for streams, whose rounds keep their order."""

    def __init__(self, batch_size: int, loading: Loading = Loading()) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size)
        self.batch_size = batch_size
        self.loading = loading
        self.evaluation_batch_size = loading.evaluation_batch_size or batch_size
        self.passes_per_epoch = loading.passes_per_epoch
        self.train_set = None
        self.validation_set = None
        self.test_set = None
        self.predict_set = None
        self._training_batches: GlobalBatches | None = None
        self._resumed = (0, 0)
        self._workers_reported = False

    @cached_property
    def seed(self) -> int:
        """The seed in `loading`. If it is None, the value that `seed_everything` has when the data are first read."""
        return run_seed() if self.loading.seed is None else self.loading.seed

    @abstractmethod
    def set_up_training(self) -> None:
        """Create `train_set` and, if there is a validation set, `validation_set`."""

    @abstractmethod
    def set_up_test(self) -> None:
        """Create `test_set`."""

    def set_up_prediction(self) -> None:
        """Create `predict_set`. By default, the test set is predicted."""
        if self.test_set is None:
            self.set_up_test()

    def augment(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        """Augment a training batch on its device, with random numbers that depend on (`seed`, `epoch`, `index`)."""
        return batch

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Convert a batch to the module's input, on the batch's device: images become floats in the module's dtype."""
        return batch

    @property
    def num_train_samples(self) -> int:
        """Number of training samples, not counting held-out samples."""
        if self.train_set is None:
            raise RuntimeError('num_train_samples is known only after setup("fit")')
        return len(self.train_set)

    def setup(self, stage: str) -> None:
        _ = self.seed  # fixes the seed, so that later calls of `seed_everything` have no effect
        if stage in ("fit", "validate") and self.train_set is None:
            self.set_up_training()
        if stage == "test" and self.test_set is None:
            self.set_up_test()
        if stage == "predict" and self.predict_set is None:
            self.set_up_prediction()

    def train_dataloader(self) -> DataLoader:
        train_set, trainer = self.require_sets(self.train_set, "fit"), self.trainer
        batches = self.training_batches(trainer.current_epoch if trainer is not None else 0, *self.processes())
        self._training_batches = batches
        batches.report_left_out()
        loader = self._loader(train_set, batches)
        if trainer is not None:
            loader.current_epoch = lambda: trainer.current_epoch
        return loader

    def require_sets(self, samples: Any, stage: str) -> Any:
        """Return a dataset, or the datasets, that `setup` creates; raise an error if it has not been called."""
        if samples is None:
            raise NotReadYet(f'{type(self).__name__} has not read its data: call setup("{stage}") first')
        return samples

    def training_batches(self, epoch: int, rank: int, world_size: int) -> GlobalBatches:
        """Return the sampler of the training batches of this rank."""
        return GlobalBatches(
            self.samples_per_epoch(),
            self.batch_size,
            rank,
            world_size,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            resumed=self._resumed,  # may be later than `epoch`, because Lightning builds loaders early to count steps
            passes=self.passes_per_epoch,
            draw=self.draw_epoch,
        )

    def samples_per_epoch(self) -> int:
        """Return the number of samples in a pass over the training set."""
        return self.num_train_samples

    def draw_epoch(self, random: np.random.Generator) -> np.ndarray:
        """Sample the order of a pass over the training set, as positions `[samples_per_epoch]`."""
        return random.permutation(self.num_train_samples)

    def val_dataloader(self) -> DataLoader | list:
        return [] if self.validation_set is None else self.evaluation_loader(self.validation_set)

    def test_dataloader(self) -> DataLoader:
        return self.evaluation_loader(self.require_sets(self.test_set, "test"))

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader() if self.predict_set is None else self.evaluation_loader(self.predict_set)

    def evaluation_loader(self, samples: RequestedSet) -> DataLoader:
        """Return a DataLoader that reads a dataset in order, sharded over ranks without duplicates."""
        rank, world_size = self.processes()
        if self.evaluation_batch_size < world_size:
            raise ValueError(
                f"loading.evaluation_batch_size {self.evaluation_batch_size} (over all ranks) is below the number of "
                f"ranks, {world_size}"
            )
        batch_size = min(self.evaluation_batch_size, len(samples))
        return self._loader(samples, GlobalBatches(len(samples), batch_size, rank, world_size))

    def processes(self) -> tuple[int, int]:
        """Return rank and world size."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _loader(self, samples: RequestedSet, batches: GlobalBatches) -> SeededLoader:
        processes, in_a_trainer = (1, False) if self.trainer is None else (self.trainer.num_devices, self.in_a_trainer)
        num_workers = self.loading.workers(getattr(samples, "in_memory", False), processes)
        if num_workers and self.loading.num_workers is None and not self._workers_reported:
            self._workers_reported = True
            workers = f"{num_workers} DataLoader workers for each rank, one per free core"
            rank_zero_info(f"data.loading.num_workers is not set: {workers}")
        collate = None if in_a_trainer else self._finished_on_host
        return seeded_loader(samples, batches, num_workers, self.loading.prefetch_factor, self.seed, collate)

    def run_directory(self) -> Path | None:
        """Return the run directory, or None without loggers. All ranks must call this: the path is broadcast."""
        directory = self.trainer.log_dir if self.trainer is not None and self.trainer.loggers else None
        return None if directory is None else Path(directory)

    @property
    def in_a_trainer(self) -> bool:
        """Whether a Trainer is running. It then moves stored batches to its device and calls the hook below."""
        return self.trainer is not None and self.trainer.state.status == TrainerStatus.RUNNING

    def _finished_on_host(self, batch: dict[str, Any]) -> dict[str, Any]:
        return FinishedBatch(self.on_after_batch_transfer(batch, 0))

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augment a training batch on the device, then convert the batch with `finish`."""
        if isinstance(batch, FinishedBatch):
            return batch
        epoch = batch.pop("epoch", None)
        if epoch is not None:
            batch = self.augment(batch, epoch)
        return self.finish(batch)

    @property
    def module_dtype(self) -> torch.dtype:
        """The dtype of the Trainer's module. Without a Trainer, it is float32."""
        module = None if self.trainer is None else self.trainer.lightning_module
        dtype: Any = torch.float32 if module is None else module.dtype
        return dtype

    def in_unit_interval(self, stored: Tensor, data_range: float) -> Tensor:
        """Divide images by `data_range`, the stored value of white, and convert them to the dtype of the module."""
        precise = stored.to(torch.promote_types(self.module_dtype, torch.float32), copy=True)
        return precise.div_(data_range).to(self.module_dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of batches that were used in this epoch."""
        assert self.trainer is not None
        order, batches = self._training_batches, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if order is not None and batches >= self.trainer.num_training_batches:
            batches = len(order)  # no batch of this epoch is left
        return {"epoch": self.trainer.current_epoch if order is None else order.epoch, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = (state_dict["epoch"], state_dict["batches"])
        if self._training_batches is not None:  # the loader was built before the checkpoint was read, to count steps
            self._training_batches.resumed = self._resumed
            self._training_batches.set_epoch(self._resumed[0])
