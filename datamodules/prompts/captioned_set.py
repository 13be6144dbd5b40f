"""Interface of datasets of images with captions.

A dataset reads its images, and its DataModule decides which images form a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.augmentation.crop_and_flip import sample_flips
from datamodules.classification.image_sets import ImageSet, ImageSource
from datamodules.loading.global_batches import Request
from datamodules.loading.lanes import order_in_lanes
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.cropped_images import CroppedImages
from datamodules.randomness.counter import sample_uniform
from datamodules.sets import FetchedSet


@dataclass(frozen=True)
class Captioned:
    """The images and captions of one split.

    Args:
        source: images. Their labels are ignored.
        captions: one caption per image, `[N]`. None if the images have no captions.
        repeats: number of times that each image occurs in an epoch of training, `[N]`. None means once.
        weight: factor of the loss of each image, `[N]`. None means 1.
        number: number of each image, `[N]`, the same for an image that occurs in several sizes, or for all images of a
            row group of streamed shards. Images with the same number are held out together. None means 0 ... N - 1.
        lanes: for streamed shards, number of row groups from which consecutive images of an epoch are. None means that
            the images are shuffled completely.
    """

    source: ImageSource
    captions: Sequence[str] | None = None
    repeats: Tensor | None = None
    weight: Tensor | None = None
    number: NDArray[np.int64] | None = None
    lanes: int | None = None

    def repeat(self, row: Tensor) -> Tensor:
        """Return the rows of an epoch of training, in which the images `row`, `[n]`, occur several times."""
        return row if self.repeats is None else row.repeat_interleave(self.repeats[row])


class CaptionedSet(FetchedSet, ABC):
    """A dataset of images with captions."""

    image_shape: tuple[int, ...]
    """Shape C, H, W of the input images of the network, or T, C, H, W of clips."""
    num_frames: int | None = None
    """Number T of frames of a clip. None means images."""
    buckets: Buckets | None = None
    """Aspect-ratio buckets of the images."""

    @property
    def location(self) -> str:
        """Where the images are, such as their folder."""
        return type(self).__name__

    @property
    def bucketed(self) -> bool:
        """Whether images may have different sizes, so that batches must have one size."""
        sets = self.members("").values()
        return any(each.buckets is not None for each in sets) or len({each.image_shape for each in sets}) > 1

    def check_frames(self, multiple: int | None, needed_by: str, key: str) -> None:
        """Check that the samples are images, or clips with a number of frames that an autoencoder can encode.

        Args:
            multiple: number that must divide the number of a clip's frames after the first. None requires images.
            needed_by: name of the model, for the error message.
            key: key of this dataset in a configuration.
        """
        count = self.num_frames
        if multiple is None and count is not None:
            raise ValueError(f"{key} has clips, but {needed_by} needs images: use a set of images, or Wan")
        if multiple is not None and count is None:
            clips = "datamodules.prompts.captioned_clips.CaptionedClips"
            raise ValueError(f"{key} has images, but {needed_by} needs clips: use {clips}")
        if multiple is not None and count is not None and count % multiple != 1:
            raise ValueError(f"{key}.num_frames must be a multiple of {multiple} plus 1 for {needed_by}, got {count}")

    def members(self, key: str) -> dict[str, "CaptionedSet"]:
        """Return the datasets of which this one consists, by their keys in a configuration.

        Args:
            key: key of this dataset.
        """
        return {key: self}

    def has_captions(self) -> bool:
        """Check images and captions without decoding any image, and return whether there are captions.

        Raises:
            FileNotFoundError: if the images, or files to which the captions refer, are missing.
            ValueError: if a file is not an image, or if captions and images do not match.
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

    Captions contain the class names.

    Args:
        images: labelled dataset. If a class has no name, its index is used.
        caption: template of the captions, such as `a photo of a {}`. `{}` is replaced by the class name.
    """

    def __init__(self, images: ImageSet, caption: str = "{}") -> None:
        self.images = images
        self.caption = caption
        channels, height, width = images.image_shape
        self.image_shape = (channels, height, width)

    def fetch_missing(self) -> None:
        self.images.fetch_missing()

    def training(self) -> Captioned:
        source = self.images.training()
        names = self.images.class_names or list(map(str, range(self.images.num_classes)))
        return Captioned(source, [self.caption.format(names[label]) for label in source.label.tolist()])


@dataclass(frozen=True)
class ShuffledTags:
    """Shuffling of the tags of captions such as `sks, red hat, outdoors`, whose tags are separated by commas.

    The order depends only on (seed, epoch, index).

    Args:
        keep: number of tags at the start of a caption that stay where they are.
    """

    keep: int = 1

    def __post_init__(self) -> None:
        at_least(0, **{"tags.keep": self.keep})

    def apply(self, captions: Sequence[str], seed: int, epoch: int, index: Tensor) -> list[str]:
        """Shuffle the tags of the captions of a training batch."""
        tags = [[tag.strip() for tag in caption.split(",")] for caption in captions]
        keys = sample_uniform(seed, epoch, index, count=max(map(len, tags)), stream=3).tolist()
        for each, key in zip(tags, keys, strict=True):
            each[self.keep :] = [tag for _, tag in sorted(zip(key, each[self.keep :], strict=False))]
        return [", ".join(each) for each in tags]


class Stored(NamedTuple):
    """Array whose rows replace the images or captions of a batch."""

    array: Any
    """The array, or the arrays of several buckets, indexed by rows."""
    row: NDArray[np.int64]
    """Row of each image, `[n]`."""
    mirrored: int = 0
    """Offset from the row of an image to the row of the flipped image. 0 if there are no flipped images."""


class CaptionedRows:
    """Dataset of selected images of a split, indexed by a `Request`.

    Args:
        captioned: the split.
        row: positions of the selected images in the split, `[n]`.
        seed: seed of random crops and flips. None means centre crops without flips.
        flip: whether half of the images are flipped horizontally, with the same random numbers as in
            `Augmentation.apply`.
        tags: shuffling of the captions' tags. None means that captions stay as they are.
    """

    def __init__(
        self,
        captioned: Captioned,
        row: Tensor,
        seed: int | None = None,
        flip: bool = False,
        tags: ShuffledTags | None = None,
    ) -> None:
        self.captioned = captioned
        self.row = row
        self.seed = seed
        self.flip = flip and seed is not None
        self.tags = tags
        self.instead: dict[str, Stored] | None = None
        self.prior: CaptionedRows | None = None
        """Class images for prior preservation. One of them is added to the batch for each training image."""

    @property
    def in_memory(self) -> bool:
        own = self.captioned.source.in_memory or self.instead is not None
        return own and (self.prior is None or self.prior.in_memory)

    @property
    def captions(self) -> list[str] | None:
        """Captions of the selected images, `[n]`."""
        every = self.captioned.captions
        return None if every is None else [every[row] for row in self.row.tolist()]

    @property
    def bucket(self) -> NDArray[np.int64] | None:
        """Bucket index of each selected image, `[n]`. None if there are no buckets."""
        source = self.captioned.source
        return source.bucket[self.row.numpy()] if isinstance(source, CroppedImages) and source.bucketed else None

    def give_instead(self, arrays: Mapping[str, tuple[Any, ...]]) -> None:
        """Replace the images in all later batches by rows of `arrays`.

        Args:
            arrays: for each batch key that is set from an array, the fields of a `Stored`.
        """
        self.instead = {key: Stored(*given) for key, given in arrays.items()}

    def __len__(self) -> int:
        return len(self.row)

    def draw(self, random: np.random.Generator) -> NDArray[np.int64]:
        """Sample the order of an epoch of training, `[n]`."""
        if self.captioned.lanes is None or self.captioned.number is None:
            return random.permutation(len(self))
        return order_in_lanes(self.captioned.number[self.row.numpy()], self.captioned.lanes, random)

    def flip_mask(self, request: Request) -> Tensor | None:
        """Return which images of a training batch are flipped, `[B]`, or None if no image is ever flipped."""
        if not self.flip:
            return None
        assert self.seed is not None
        return sample_flips(self.seed, request.epoch, request.indices)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        index = request.indices
        batch: dict[str, Any] = {"index": index, "global_batch_size": request.global_batch_size}
        rows, source = self.row[index], self.captioned.source
        mirrored = self.flip_mask(request)
        if self.captioned.captions is not None:
            batch["caption"] = [self.captioned.captions[row] for row in rows.tolist()]
            if self.tags is not None and self.seed is not None:
                batch["caption"] = self.tags.apply(batch["caption"], self.seed, request.epoch, index)
        if self.captioned.weight is not None and self.seed is not None:
            batch["image_weight"] = self.captioned.weight[rows]
        uniform = None
        if self.seed is not None and self.instead is None:
            batch["epoch"] = request.epoch
            if source.num_uniform:
                uniform = sample_uniform(self.seed, request.epoch, index, count=source.num_uniform, stream=1)
        if isinstance(source, CroppedImages):
            batch["size_conditions"] = source.size_conditions(rows, uniform, mirrored)
        if self.instead is not None:
            for key, stored in self.instead.items():
                row = stored.row[index.numpy()]
                if mirrored is not None and stored.mirrored:
                    row = row + stored.mirrored * mirrored.numpy()
                batch[key] = torch.as_tensor(stored.array[row])
        else:
            self._add_images(batch, rows, uniform)
        if self.prior is not None:
            assert self.seed is not None
            chosen = sample_uniform(self.seed, request.epoch, index, count=1, stream=2)[:, 0] * len(self.prior)
            batch["prior"] = self.prior[request._replace(indices=chosen.long())]
        return batch

    def _add_images(self, batch: dict[str, Any], rows: Tensor, uniform: Tensor | None) -> None:
        source = self.captioned.source
        batch["image"], batch["data_range"] = source.fetch(rows, uniform), source.data_range
        if isinstance(source, CroppedImages) and source.masked:
            batch["loss_mask"] = source.fetch_masks(rows, uniform)
        if isinstance(source, CroppedImages) and source.conditioned:
            batch["condition"] = source.fetch_conditions(rows, uniform)


def captions_of(batch: Mapping[str, Any], needed_by: str) -> list[str]:
    """Return the captions of a batch.

    Raises:
        ValueError: if there are no captions.
    """
    if "caption" not in batch:
        raise ValueError(
            f"{needed_by} needs captions, but the data have none: add metadata.jsonl or a text file next to each image "
            f"to the folder, or set one caption for all images with data.images.prompt"
        )
    return batch["caption"]
