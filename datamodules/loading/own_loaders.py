"""DataLoaders of a user's own, whose batches are made those of `datamodules.batches`.

A method may remember something of each training sample, and then needs to know which samples a batch holds. A loader
that shuffles tells nobody; so its set is made to give each sample with its position.
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
    """Give `(image, label)`, or images alone, as a dict; other batches stay as they are, and dicts too."""
    if isinstance(batch, Tensor):
        return {"image": batch}
    if isinstance(batch, list | tuple) and 1 <= len(batch) <= 2 and all(isinstance(part, Tensor) for part in batch):
        return dict(zip(("image", "label"), batch, strict=False))
    return batch


class WithPositions(Dataset[Any]):
    """A set that gives each sample with its position, and for a `Request` a whole batch.

    Args:
        samples: a set of samples by position.
        collate: makes a batch of a list of samples, in their order.
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
        """Make a batch of samples with their positions, which it has as `index` unless its own say otherwise.

        Raises:
            TypeError: if the batch is neither a dict with `image` nor `(image, label)`.
            ValueError: if it holds more images than there are samples, or fewer.
        """
        batch = as_batch(self.own_collate([sample for _, sample in numbered]))
        if not (isinstance(batch, Mapping) and isinstance(batch.get("image"), Tensor)):
            raise TypeError(
                f"batches must be dicts with `image` and `label`, or pairs of the two, and those of "
                f"{type(self.samples).__name__} are {type(batch).__name__}"
            )
        if len(batch["image"]) != len(numbered):
            raise ValueError(
                f"the loader's collate_fn makes {len(batch['image'])} images of {len(numbered)} samples, so that "
                f"nobody knows which sample an image is"
            )
        return {"index": torch.tensor([int(at) for at, _ in numbered]), **batch}


class SeveralPasses(Sampler[list[int]]):
    """Visits a set several times in an epoch, each time as its own sampler of batches does.

    Args:
        batches: the loader's sampler of batches.
        passes: times that an epoch visits the set.
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
    """Tell whether a DataModule knows its training samples, and gives their positions in its batches itself."""
    name = "num_train_samples"
    return hasattr(type(data), name) or name in getattr(data, "__dict__", {})


def has_positions(loader: Any) -> bool:
    """Tell whether a loader makes batches of samples of a set that has positions."""
    return (
        isinstance(loader, DataLoader)
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
    )


def with_positions(loader: Any, passes: int = 1) -> Any:
    """Give a loader of the same samples in the same order, whose batches are dicts that hold `index`.

    Args:
        loader: the user's, which stays as it is; one that has no positions is returned itself.
        passes: times that an epoch visits the set.

    Raises:
        ValueError: if there are several passes, and no positions or several processes.
    """
    if passes > 1 and not (has_positions(loader) and world_size() == 1):
        raise ValueError(
            f"an epoch needs {passes} passes through the training set, which a loader of your own gives in one process "
            f"and from a set of samples by position: use datamodules.classification.labelled_images.LabelledImages "
            f"with passes_per_epoch {passes}"
        )
    if not has_positions(loader) or isinstance(loader.dataset, WithPositions):
        return loader
    samples = WithPositions(loader.dataset, loader.collate_fn)
    # A copy, as DataLoader refuses another set, and a new one would need the arguments of whatever subclass this is.
    numbered = copy.copy(loader)
    kept = {name: value for name, value in vars(loader).items() if not name.startswith("__")}  # none of Lightning's
    vars(numbered).clear()
    vars(numbered).update(kept, dataset=samples, collate_fn=samples.collate)
    if passes > 1:
        vars(numbered)["batch_sampler"] = SeveralPasses(loader.batch_sampler, passes)
    return numbered


class OwnTrainingSet:
    """Stands in for a DataModule where a module is trained from a loader of the user's own.

    Args:
        loader: the training loader.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    @property
    def num_train_samples(self) -> int:
        """Samples of the training set, of which a sampler may leave out some.

        Raises:
            ValueError: if the loader has no set of samples by position.
        """
        if not has_positions(self.loader):
            what = type(getattr(self.loader, "dataset", self.loader)).__name__
            raise ValueError(
                f"the method remembers something of each training sample, and {what} has no positions to know one "
                f"again by: use a DataLoader over a set with __getitem__ and __len__, or a DataModule with "
                f"num_train_samples whose batches hold index"
            )
        return len(self.loader.dataset)

    def training_images_dataloader(self) -> DataLoader:
        """Give the training images in their own order, as the set gives them; each process gets its share."""
        size, samples = self.num_train_samples, self.loader.dataset
        if not isinstance(samples, WithPositions):
            samples = WithPositions(samples, self.loader.collate_fn)
        batch_size = min(size, (self.loader.batch_size or 128) * world_size())
        batches = GlobalBatches(size, batch_size, rank(), world_size())
        return DataLoader(samples, sampler=batches, batch_size=None, num_workers=self.loader.num_workers)
