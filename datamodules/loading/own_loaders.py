"""Adapt the user's DataLoaders, so that they return batches of the types in `datamodules.batches`.

A method that keeps state for each training sample needs the positions of a batch's samples in the dataset. A shuffling
DataLoader does not return these positions. Therefore the dataset is wrapped, so that it returns each sample with its
position.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from datamodules.distributed.collectives import rank, world_size
from datamodules.loading.global_batches import GlobalBatches, Request


def as_batch(batch: Any) -> Any:
    """Convert a batch `(image, label)`, or a tensor of images, to a dict.

    Other batches are returned unchanged.
    """
    if isinstance(batch, Tensor):
        return {"image": batch}
    if isinstance(batch, list | tuple) and 1 <= len(batch) <= 2 and all(isinstance(part, Tensor) for part in batch):
        return dict(zip(("image", "label"), batch, strict=False))
    return batch


class WithPositions(Dataset[Any]):
    """Dataset wrapper that returns each sample with its position.

    If the index is a `Request`, the wrapper returns a whole batch.

    Args:
        samples: map-style dataset.
        collate: function that collates a list of samples into a batch, in the order of the list.
    """

    def __init__(self, samples: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.samples = samples
        self.own_collate = collate

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, where: Any) -> Any:
        if not isinstance(where, Request):
            return where, self.samples[where]
        batch = self.collate(self.__getitems__(where.indices.tolist()))
        return {**batch, "global_batch_size": where.global_batch_size}

    def __getitems__(self, positions: Sequence[Any]) -> list[tuple[Any, Any]]:
        together = getattr(self.samples, "__getitems__", None)
        samples = [self.samples[at] for at in positions] if together is None else together(positions)
        return list(zip(positions, samples, strict=True))

    def collate(self, numbered: list[tuple[Any, Any]]) -> Any:
        """Collate samples into a batch.

        The positions of the samples are added as `index`, unless the batch has an `index`.
        """
        batch = as_batch(self.own_collate([sample for _, sample in numbered]))
        if not (isinstance(batch, Mapping) and isinstance(batch.get("image"), Tensor)):
            raise TypeError(
                f"batches must be dicts with `image` and `label`, or pairs (image, label), but those of "
                f"{type(self.samples).__name__} are {type(batch).__name__}"
            )
        if len(batch["image"]) != len(numbered):
            raise ValueError(
                f"the loader's collate_fn returns {len(batch['image'])} images for {len(numbered)} samples, so images "
                f"cannot be matched to samples"
            )
        return {"index": torch.tensor([int(at) for at, _ in numbered]), **batch}


class SeveralPasses(Sampler[list[int]]):
    """Batch sampler that iterates over another batch sampler several times per epoch.

    Args:
        batches: batch sampler of the loader.
        passes: number of passes over the dataset per epoch.
    """

    def __init__(self, batches: Any, passes: int) -> None:
        self.batches = batches
        self.passes = passes

    def __len__(self) -> int:
        return self.passes * len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.passes):
            yield from self.batches


def gives_positions(data: Any) -> bool:
    """Return whether a DataModule has `num_train_samples` and adds the positions of samples to batches."""
    name = "num_train_samples"
    return hasattr(type(data), name) or name in getattr(data, "__dict__", {})


def has_positions(loader: Any) -> bool:
    """Return whether a loader's samples have positions, as is the case for a map-style dataset."""
    return (
        isinstance(loader, DataLoader)
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
    )


def with_positions(loader: Any, passes: int = 1) -> Any:
    """Return a loader of the same samples in the same order. Its batches are dicts with the key `index`.

    Args:
        loader: the user's DataLoader, which is not modified. If its samples have no positions, the loader itself is
            returned.
        passes: number of passes over the dataset per epoch.

    Raises:
        ValueError: if several passes are requested, but there are several ranks or the samples have no positions.
    """
    if passes > 1 and not (has_positions(loader) and world_size() == 1):
        raise ValueError(
            f"an epoch needs {passes} passes over the training set, which your own loader supports only on one rank "
            f"and with a map-style dataset: use datamodules.classification.labelled_images.LabelledImages "
            f"with passes_per_epoch {passes}"
        )
    if not has_positions(loader) or isinstance(loader.dataset, WithPositions):
        return loader
    samples = WithPositions(loader.dataset, loader.collate_fn)
    # A DataLoader does not allow its dataset to be replaced, and a subclass may have a different constructor. So copy
    # it.
    numbered = copy.copy(loader)
    # Attributes that Lightning adds are not copied.
    kept = {name: value for name, value in vars(loader).items() if not name.startswith("__")}
    vars(numbered).clear()
    vars(numbered).update(kept, dataset=samples, collate_fn=samples.collate)
    if passes > 1:
        vars(numbered)["batch_sampler"] = SeveralPasses(loader.batch_sampler, passes)
    return numbered


class OwnTrainingSet:
    """Substitute for a DataModule when a module is trained with the user's DataLoader.

    Args:
        loader: the training loader.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    @property
    def num_train_samples(self) -> int:
        """Size of the training set.

        It counts all samples of the dataset, even if a sampler skips some of them.
        """
        if not has_positions(self.loader):
            what = type(getattr(self.loader, "dataset", self.loader)).__name__
            raise ValueError(
                f"the method keeps state per training sample, but {what} has no positions to identify samples by: "
                f"use a DataLoader over a dataset with __getitem__ and __len__, or a DataModule with "
                f"num_train_samples whose batches contain index"
            )
        return len(self.loader.dataset)

    def training_images_dataloader(self) -> DataLoader:
        """Return the training images in dataset order, sharded over ranks."""
        size, samples = self.num_train_samples, self.loader.dataset
        if not isinstance(samples, WithPositions):
            samples = WithPositions(samples, self.loader.collate_fn)
        batch_size = min(size, (self.loader.batch_size or 128) * world_size())
        batches = GlobalBatches(size, batch_size, rank(), world_size())
        return DataLoader(samples, sampler=batches, batch_size=None, num_workers=self.loader.num_workers)
