"""Read single images of the test set.

This module is for callbacks that run a long computation, such as certification, on each image. Such callbacks read
images by position, distribute the positions over ranks, and store their results in files (see `datamodules.jobs`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.files.module_hash import hash_of_module
from datamodules.jobs.stores import digest_of
from lightning_modules.lightning_internals import before_batch_transfer

NUM_COMPARED = 16
"""Number of tested images whose pixels are compared in order to check that a resumed run uses the same test set."""


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image of a test set and its label."""

    index: int
    """Position of the image in the test set."""
    image: Tensor
    """Image `[C, H, W]`, float32 in [0, 1], on the device."""
    label: int


class TestedImages:
    """Give access to test images by their position.

    The images are moved to the module's device, and receive the same transforms as in the test loop.

    Args:
        trainer: trainer that runs the test. If it has several test DataLoaders, the first one is used. The sampler of
            this DataLoader does not affect positions: its order and its sharding are ignored.
        needed_by: name of the caller, for error messages.
    """

    def __init__(self, trainer: Trainer, needed_by: str) -> None:
        self.trainer = trainer
        self.needed_by = needed_by
        self.loader = self._first_loader(trainer.test_dataloaders)
        if not (hasattr(self.loader.dataset, "__getitem__") and hasattr(self.loader.dataset, "__len__")):
            kind = type(self.loader.dataset).__name__
            raise TypeError(f"{needed_by} reads images by position, which {kind} does not support")
        self.request: Any = None
        if self.loader.batch_size is None and self.loader.batch_sampler is None:
            self.request = next(iter(self.loader.sampler))
            if not hasattr(self.request, "indices"):
                raise TypeError(f"{needed_by} needs a sampler of single positions or of requests with `indices`")

    def _first_loader(self, loaders: Any) -> DataLoader:
        first = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
        if not isinstance(first, DataLoader):
            raise TypeError(f"{self.needed_by} needs a test DataLoader, got {type(first).__name__}")
        return first

    def __len__(self) -> int:
        return len(self.loader.dataset)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> LabelledImage:
        """Read one image.

        Args:
            position: position of the image in the test set.

        Raises:
            ValueError: if the image is not in [0, 1].
            TypeError: if batches of the test set are not dictionaries with `image` and `label`.
        """
        dataset: Any = self.loader.dataset
        if self.request is None:
            batch = self.loader.collate_fn([dataset[position]])
        else:
            batch = self.loader.collate_fn(
                dataset[self.request._replace(indices=torch.tensor([position]), global_batch_size=1)]
            )
        # As in the trainer's test loop, use the DataModule's hook if it defines one, and otherwise the module's hook.
        batch = before_batch_transfer(self.trainer.lightning_module, batch)
        batch = self.trainer.strategy.batch_to_device(batch)
        if not (isinstance(batch, dict) and {"image", "label"} <= batch.keys()):
            raise TypeError(f"{self.needed_by} needs batches that are dictionaries with `image` and `label`")
        image = batch["image"][0]
        # All values are transferred together, so that the host waits only once for the device. They are float32, which
        # represents labels up to 2^24 exactly.
        lowest, highest, label = torch.stack([*image.float().aminmax(), batch["label"][0].float()]).tolist()
        if not image.is_floating_point() or not 0 <= lowest <= highest <= 1:
            raise ValueError(
                f"image {position} is {image.dtype} in {lowest:g}...{highest:g}, but {self.needed_by} needs images in "
                f"[0, 1], because sigma, epsilon and radius are in pixel units"
            )
        return LabelledImage(position, image.float(), int(label))

    def chosen(self, skip: int, end: int | None) -> range:
        """Select every `skip`-th position before `end`.

        With the trainer's `fast_dev_run`, only as many positions are selected as there are processes.
        """
        positions = range(len(self) if end is None else min(end, len(self)))[::skip]
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            positions = positions[: self.trainer.world_size]
        return positions

    def settings(self, pl_module: LightningModule, positions: range) -> dict[str, Any]:
        """Return JSON values that describe the data, weights and precision on which a callback's results depend.

        Args:
            pl_module: the tested module.
            positions: positions of the tested images. The result includes the pixels of only `NUM_COMPARED` of these
                images. It includes the labels of all tested images if the dataset stores labels in memory, in the
                attribute `label` or `targets`; otherwise, it includes the labels of the same `NUM_COMPARED` images.
        """
        compared = [self[at] for at in positions[:: -(-len(positions) // NUM_COMPARED)]]
        label = self._labels_in_memory(positions)
        data = self.trainer.datamodule or self.loader.dataset  # type: ignore[attr-defined]
        return {
            "dataset": f"{type(getattr(data, 'images', data)).__name__} of {len(self)} images",
            "labels": digest_of(torch.tensor([one.label for one in compared]) if label is None else label),
            "images": digest_of(*(one.image for one in compared)),
            "module": f"{type(pl_module).__module__}.{type(pl_module).__qualname__}",
            "weights": hash_of_module(pl_module),
            "precision": str(self.trainer.precision),
            "device": pl_module.device.type,
        }

    def _labels_in_memory(self, positions: range) -> Tensor | None:
        dataset: Any = self.loader.dataset
        for name in ("label", "targets"):
            label = getattr(dataset, name, None)
            if isinstance(label, Tensor | np.ndarray | list) and len(label) == len(self):
                return torch.as_tensor(label)[torch.tensor(positions)].long()
        return None


def require_testing(trainer: Trainer, needed_by: str) -> None:
    """Reject a trainer that skips testing, or whose strategy shards the weights of the network over processes."""
    if trainer.limit_test_batches == 0:
        raise ValueError(f"with trainer.limit_test_batches 0, testing is skipped, and {needed_by} with it: set it to 1")
    require_whole_network(trainer, needed_by)


def require_whole_network(trainer: Trainer, needed_by: str) -> None:
    """Reject a trainer whose strategy shards the weights of the network over processes."""
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        raise ValueError(
            f"{needed_by} needs the whole network in each process, but trainer.strategy "
            f"{type(trainer.strategy).__name__} shards it: use ddp"
        )
