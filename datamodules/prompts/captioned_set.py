"""Interface of datasets of images with captions.

A dataset reads its images and knows nothing of batches.
"""

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
    """Images of one split with their captions.

    Args:
        source: images, whose labels are ignored.
        captions: one caption per image, `[N]`. None if the images have no captions.
    """

    source: ImageSource
    captions: Sequence[str] | None = None


class CaptionedSet(ABC):
    """A dataset of images with captions."""

    image_shape: tuple[int, int, int]
    """Shape C, H, W of the input images of the network."""

    def has_captions(self) -> bool:
        """Return whether the images have captions, without reading an image.

        Raises:
            FileNotFoundError: if the images, or files that the captions refer to, are missing.
            ValueError: if captions and images do not match.
        """
        return True

    @abstractmethod
    def training(self) -> Captioned:
        """Read the images.

        Raises:
            FileNotFoundError: if the images are missing. The message names the expected path.
            ValueError: if a file is damaged, or if captions and images do not match.
        """


class CaptionedClasses(CaptionedSet):
    """Training images of a labelled dataset.

    The captions contain the names of classes.

    Args:
        images: labelled dataset. If a class has no name, its number is used.
        caption: template of the captions, such as `a photo of a {}`. `{}` stands for the class.
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
    """Selected images of a split, fetched one batch at a time.

    Args:
        captioned: the split.
        row: positions in the split, `[n]`.
        seed: seed of random crops. None means centre crops.
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
        """Captions of these images, `[n]`."""
        every = self.captioned.captions
        return None if every is None else [every[row] for row in self.row.tolist()]

    def give_instead(self, arrays: dict[str, tuple[NDArray[Any], NDArray[np.int64]]]) -> None:
        """Return a copy of the dataset.

        Its batches contain rows of given arrays instead of images.

        Args:
            arrays: dictionary that maps each batch key to an array and to the rows of the images in this array, `[n]`.
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
    """Return the captions of a batch.

    Raises:
        ValueError: if there are no captions.
    """
    if "caption" not in batch:
        raise ValueError(
            f"{needed_by} needs captions, but the data have none: add metadata.jsonl or a text file beside each image "
            f"to the folder, or set one caption for all images by data.images.prompt"
        )
    return batch["caption"]
