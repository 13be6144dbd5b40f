"""The interface of data sets of images with captions: a plain object that reads, and knows nothing of batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.classification.image_sets import ImageSet, ImageSource
from datamodules.loading.global_batches import Request
from datamodules.randomness.counter import sample_uniform


@dataclass(frozen=True)
class Captioned:
    """Images of one split with what they show.

    Args:
        source: the images; their labels are not looked at.
        captions: a text for each, `[N]`; None where there are none.
    """

    source: ImageSource
    captions: Sequence[str] | None = None


class CaptionedSet(ABC):
    """A data set of images with captions."""

    image_shape: tuple[int, int, int]
    """C, H, W of the images that a network gets."""

    def has_captions(self) -> bool:
        """Tell whether the images have captions, without reading an image.

        Raises:
            FileNotFoundError: if the images or a file that the captions name are missing.
            ValueError: if captions do not fit.
        """
        return True

    @abstractmethod
    def training(self) -> Captioned:
        """Read the images.

        Raises:
            FileNotFoundError: if they are missing, saying what was expected where.
            ValueError: if a file is damaged or captions do not fit.
        """


class CaptionedClasses(CaptionedSet):
    """The training images of a labelled set, with the names of their classes for captions.

    Args:
        images: the set; a class without a name has its number.
        caption: text in which `{}` is the class, such as `a photo of a {}`.
    """

    def __init__(self, images: ImageSet, caption: str = "{}") -> None:
        self.images = images
        self.caption = caption
        channels, height, width = images.image_shape
        self.image_shape = (channels, height, width)

    def training(self) -> Captioned:
        source = self.images.training()
        names = self.images.class_names or list(map(str, range(self.images.num_classes)))
        return Captioned(source, [self.caption.format(names[label]) for label in source.label.tolist()])


class CaptionedRows:
    """Some images of a split, fetched a batch at a time.

    Args:
        captioned: the split.
        row: positions in it, `[n]`.
        seed: random seed of the place of a crop; None cuts out the centre.
    """

    def __init__(self, captioned: Captioned, row: Tensor, seed: int | None = None) -> None:
        self.captioned = captioned
        self.row = row
        self.seed = seed
        self.instead: dict[str, tuple[NDArray[Any], NDArray[np.int64]]] | None = None

    @property
    def in_memory(self) -> bool:
        return self.captioned.source.in_memory or self.instead is not None

    @property
    def captions(self) -> list[str] | None:
        """The captions of these images, `[n]`."""
        every = self.captioned.captions
        return None if every is None else [every[row] for row in self.row.tolist()]

    def give_instead(self, arrays: dict[str, tuple[NDArray[Any], NDArray[np.int64]]]) -> None:
        """Give rows of arrays in place of images, which are not read any more.

        Args:
            arrays: by the key that the batch has, an array and its row for each image, `[n]`.
        """
        self.instead = arrays

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        index = request.indices
        batch: dict[str, Any] = {"index": index, "global_batch_size": request.global_batch_size}
        rows = self.row[index]
        if self.captioned.captions is not None:
            batch["caption"] = [self.captioned.captions[row] for row in rows.tolist()]
        if self.instead is not None:
            for key, (array, row_of) in self.instead.items():
                batch[key] = torch.from_numpy(array[row_of[index.numpy()]])
            return batch
        source, uniform = self.captioned.source, None
        if self.seed is not None:
            batch["epoch"] = request.epoch
            if source.num_uniform:
                uniform = sample_uniform(self.seed, request.epoch, index, count=source.num_uniform, stream=1)
        batch["image"], batch["data_range"] = source.fetch(rows, uniform), source.data_range
        return batch


def captions_of(batch: Mapping[str, Any], needed_by: str) -> list[str]:
    """Give the captions of a batch.

    Raises:
        ValueError: if there are none.
    """
    if "caption" not in batch:
        raise ValueError(
            f"{needed_by} needs captions, and the data have none: give the folder metadata.jsonl or a text file beside "
            f"each image, or one caption for all images by data.images.prompt"
        )
    return batch["caption"]
