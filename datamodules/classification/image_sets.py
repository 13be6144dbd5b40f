"""The interface of data sets of labelled images: a plain object that reads its splits, and knows nothing of batches.

A new data set is a subclass of `ImageSet` with `num_classes`, `image_shape` and the two methods `training` and `test`.
`LabelledImages` does the rest: label noise, validation split, batches and augmentation.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from datamodules.corruptions.image_noise import CounterRNG, ImageNoise
from datamodules.files.image_files import Crop, UnreadableImage, files_by_class, read_crop
from datamodules.files.text_files import read_text
from datamodules.sets import Source, SplitSet

UNKNOWN = -1
"""The label of an image that belongs to no class."""


class ImageSource(Source, ABC):
    """The images of one split, wherever they are kept."""

    label: Tensor
    """`[N]`, int64, as the data set gives it."""
    data_range: int = 255
    """The stored value that stands for 1."""
    num_uniform: int = 0
    """Random numbers that `fetch` needs for each training image; 0 where all is augmented on the device."""
    clean_label: Tensor | None = None
    """`[N]`, int64, of a source that knows the truth beside its labels: the true ones, -1 for an image of no class."""
    classes: Tensor | None = None
    """`[k]`: the classes that the source has, where they are not all."""

    @property
    def names(self) -> list[str] | None:
        """File names, `[N]`, where the images are files."""
        return None

    @property
    def image_for_noise(self) -> Tensor | None:
        """All images, `[N, C, H, W]`, uint8 in 0...255 or float32 in [0, 1], for label noise that depends on them."""
        return None

    @abstractmethod
    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        """Read images.

        Args:
            row: positions of the images, `[B]`.
            uniform: numbers in [0, 1), `[B, num_uniform]`, that place the random crop of a training image; None reads
                an image whole or cuts out its centre.

        Returns:
            `[B, C, H, W]`, uint8 in 0...`data_range`.
        """

    def another_view(self, first: Tensor, second: Tensor) -> Tensor:
        """Give the numbers of a second view, of which `second`, `[B, num_uniform]`, are independent of the first's."""
        return second


class ImagesInMemory(ImageSource):
    """Images of one size, held as one uint8 tensor `[N, C, H, W]`."""

    in_memory = True

    def __init__(self, image: Tensor, label: Tensor, data_range: int = 255, clean_label: Tensor | None = None) -> None:
        self.image = image
        self.label = label
        self.data_range = data_range
        self.clean_label = clean_label

    @property
    def image_for_noise(self) -> Tensor:
        return self.image if self.data_range == 255 else self.image / self.data_range

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        return self.image.index_select(0, row)


class ImageFiles(ImageSource):
    """Images in files, decoded when they are asked for.

    Args:
        root: folder that the names are relative to.
        names: one file each, `[N]`.
        label: labels, `[N]`, int64.
        crop: what is cut out of an image.
        clean_label: true labels, `[N]`, where they are known beside the given ones.
    """

    def __init__(
        self, root: Path, names: Sequence[str], label: Tensor, crop: Crop, clean_label: Tensor | None = None
    ) -> None:
        self.root = root
        # One block of memory, which loader processes share; a million Python strings would be copied to each, touch by
        # touch.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self.label = label
        self.crop = crop
        self.num_uniform = crop.num_uniform
        self.clean_label = clean_label

    @property
    def names(self) -> list[str]:
        return [os.fsdecode(name) for name in self._names]

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        batch = torch.empty(len(row), 3, self.crop.size, self.crop.size, dtype=torch.uint8)
        numbers = [None] * len(row) if uniform is None else uniform.tolist()
        for position, (file, own) in enumerate(zip(row.tolist(), numbers, strict=True)):
            path = self.root / os.fsdecode(self._names[file])
            try:
                batch[position] = torch.from_numpy(read_crop(path, self.crop, own)).permute(2, 0, 1)
            except UnreadableImage as error:
                if self.unreadable is None:
                    raise
                self.unreadable[file] = str(error)
                batch[position] = 0
        return batch


def files_of_classes(split: Path, folders: Sequence[tuple[str, int]], num_classes: int, crop: Crop) -> ImageFiles:
    """Find the images in folders of one class each, which may be some of the classes.

    Args:
        split: folder that holds them.
        folders: name and label of each.
        num_classes: classes that there are; where the folders have fewer, the source says which.
        crop: what is cut out of an image.

    Raises:
        FileNotFoundError: if a folder holds no image.
    """
    names, position = files_by_class(split, [folder for folder, _ in folders])
    label = torch.tensor([label for _, label in folders])
    source = ImageFiles(split, names, label[position], crop)
    if len(label.unique()) < num_classes:
        source.classes = label.unique()
    return source


def listed_files(
    file: Path,
    root: Path,
    crop: Crop,
    name: str,
    listed: int,
    separator: str | None = None,
    num_classes: int | None = None,
) -> ImageFiles:
    """Find the images that a list names, in lines of a file name and a label.

    Args:
        file: the list.
        root: folder that the file names are relative to.
        crop: what is cut out of an image.
        name: data set, for messages.
        listed: classes that the list has.
        separator: between file name and label; None takes white space.
        num_classes: classes that are kept, the first ones; None keeps all.

    Raises:
        FileNotFoundError: if the first image is missing.
        ValueError: names the line that is something else, or the list if it is empty.
    """
    names, labels = read_list(file, listed, separator)
    kept = [place for place, label in enumerate(labels) if num_classes is None or label < num_classes]
    names = [names[place] for place in kept]
    if names and not (root / names[0]).is_file():
        raise FileNotFoundError(f"{name}: {root / names[0]} does not exist; {file} names it")
    return ImageFiles(root, names, torch.tensor([labels[place] for place in kept], dtype=torch.int64), crop)


def read_list(file: Path, listed: int, separator: str | None = None) -> tuple[list[str], list[int]]:
    """Read a list of file names and labels, with white space or another separator between them.

    Args:
        file: the list, in UTF-8.
        listed: classes that it lists: labels are 0 ... `listed` - 1.
        separator: between file name and label; None takes white space.

    Raises:
        ValueError: names the line that is something else, or the list if it is empty.
    """
    names, labels = [], []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        words = line.strip().rsplit(separator, 1)
        if len(words) != 2 or not words[0] or not words[1].isdecimal():
            between = " " if separator is None else separator
            raise ValueError(f"{file}, line {number}: expected <file>{between}<label>, got {line!r}")
        if len(words[1]) > len(str(listed)) or int(words[1]) >= listed:
            raise ValueError(f"{file}, line {number}: label must be in 0 ... {listed - 1}, got {words[1][:40]}")
        names.append(words[0])
        labels.append(int(words[1]))
    if not names:
        raise ValueError(f"{file} is empty")
    return names, labels


class OtherImages(ABC):
    """Images that another data set takes in as images of none of its classes: to be detected, or as web noise."""

    def fetch_missing(self) -> None:  # noqa: B027 - most have nothing to fetch
        """Download what is missing, if that was asked for. One process of a machine calls it."""

    @abstractmethod
    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImageSource:
        """Read the images, all with the label -1.

        Args:
            image_shape: C, H, W of the other data set, which these images must have.
            seed: random seed of what is drawn.

        Raises:
            FileNotFoundError: if they are missing, saying what was expected where.
            ValueError: if they are damaged or do not have that shape.
        """


class ImageSet(SplitSet[ImageSource], OtherImages):
    """A data set of labelled images. Its test images can be the images of no class of another set.

    Without validation images of its own, `validation_fraction` can hold some out of the training images.
    """

    image_shape: tuple[int, ...]
    """C, H, W of the images that a network gets."""
    num_views: int | None = None
    """Random views that a training image has; None where any number can be drawn."""

    @property
    def has_test(self) -> bool:
        """Tell whether there are test images; otherwise a share of the training images can be tested on."""
        return True

    def prepared(self, seed: int, device: torch.device) -> Self:
        """Take in what reading may depend on, and return the set itself. It is called before anything is read.

        Args:
            seed: random seed, for sets that are drawn.
            device: where this process computes, for sets that are computed.
        """
        return self

    def ood_test_sets(self) -> dict[str, ImageSource]:
        """Read test images that are distributed differently from the training images, by name, with the same classes'
        numbers."""
        return {}

    def shifted_labels(self) -> dict[str, Tensor]:
        """Read the labels of `ood_test_sets` alone, to tell before training what is missing."""
        return {name: source.label for name, source in self.ood_test_sets().items()}

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImageSource:
        if tuple(self.image_shape) != tuple(image_shape):
            raise ValueError(
                f"{type(self).__name__} has images {list(self.image_shape)}, and those in distribution are "
                f"{list(image_shape)}"
            )
        source = self.prepared(seed, torch.device("cpu")).test()
        source.label = torch.full_like(source.label, UNKNOWN)
        source.clean_label = None
        return source


class NoisyImages(ImageSet):
    """A set whose test images are noisy and rounded to whole grey levels, for a shifted test; the same for all seeds.

    Args:
        images: the set, whose images are in memory.
        noise: law of the noisy images, which are cut off to [0, 1].
        seed: random seed of the noise.

    Raises:
        ValueError: when read, if the images are not in memory.
    """

    def __init__(self, images: ImageSet, noise: ImageNoise, seed: int = 0) -> None:
        self.images = images
        self.noise = noise
        self.seed = seed
        self.num_classes = images.num_classes
        self.image_shape = images.image_shape

    def fetch_missing(self) -> None:
        self.images.fetch_missing()

    def training(self) -> ImageSource:
        return self.images.training()

    def test(self) -> ImagesInMemory:
        source = self.images.test()
        if not isinstance(source, ImagesInMemory):
            raise ValueError(f"images must be a set in memory for NoisyImages, got {type(self.images).__name__}")
        clean = source.image.float() / source.data_range
        noisy = self.noise.sample(clean, CounterRNG(self.seed, 0, torch.arange(len(clean))))
        return ImagesInMemory((noisy.clamp(0, 1) * 255).round().to(torch.uint8), source.label)
