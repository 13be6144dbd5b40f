"""Interface of datasets of labelled images.

A dataset only reads the images and labels of its splits.

A new dataset is a subclass of `ImageSet` with `num_classes`, `image_shape` and the two methods `training` and `test`.
The DataModule `LabelledImages` adds label noise, a validation split, batches and augmentation.
"""

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from datamodules.corruptions.image_noise import CounterRNG, ImageNoise
from datamodules.files.image_files import Crop, UnreadableImage, files_by_class, read_crop, size_in_header
from datamodules.files.pixels import read_deep_crop
from datamodules.files.text_files import read_text
from datamodules.sets import FetchedSet, Source, SplitSet

UNKNOWN = -1
"""Label of an out-of-distribution image."""


class ImageSource(Source, ABC):
    """Interface to the images of one split, independent of how the images are stored."""

    label: Tensor
    """Labels according to the dataset, `[N]`, int64."""
    data_range: int = 255
    """Stored value that corresponds to a pixel value of 1."""
    num_uniform: int = 0
    """Number of random numbers that `fetch` needs per training image; 0 if images are augmented only on the device."""
    clean_label: Tensor | None = None
    """True labels, `[N]`, int64, if they are known in addition to `label`; -1 for an out-of-distribution image."""
    classes: Tensor | None = None
    """Classes that occur in the split, `[k]`; None if all classes occur."""

    @property
    def names(self) -> list[str] | None:
        """File names, `[N]`.

        None if the images are not files.
        """
        return None

    @property
    def image_for_noise(self) -> Tensor | None:
        """All images, `[N, C, H, W]`, uint8 in 0...255 or float32 in [0, 1], for instance-dependent label noise."""
        return None

    @abstractmethod
    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        """Read images.

        Args:
            row: positions of the images, `[B]`.
            uniform: random numbers in [0, 1), `[B, num_uniform]`, which determine the random crops of training images.
                If it is None, whole images or centre crops are read.

        Returns:
            Images, `[B, C, H, W]`, uint8 in 0...`data_range`; float32 if their files keep more than 8 bits.
        """

    def another_view(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the random numbers for a second augmentation of the same images.

        Args:
            first: random numbers of the first augmentation, `[B, num_uniform]`.
            second: independent random numbers, `[B, num_uniform]`. The default implementation returns `second`
                unchanged.
        """
        return second


class ImagesInMemory(ImageSource):
    """Images of equal size, all of which are stored in one uint8 tensor `[N, C, H, W]`."""

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


class EncodedImages(ImageSource):
    """Interface of encoded images in files, which can be read with any crop."""

    crop: Crop
    """The crop that `fetch` uses."""

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        return self.read(row, uniform, self.crop)

    @abstractmethod
    def read(self, row: Tensor, uniform: Tensor | None, crop: Crop) -> Tensor:
        """Read images like `fetch`, but with the argument `crop` instead of `self.crop`."""

    @abstractmethod
    def sizes(self) -> list[tuple[int, int]]:
        """Read the height and width of each image from the file headers, after rotation by the orientation tag."""

    @abstractmethod
    def encoded(self) -> Iterator[bytes]:
        """Read the encoded images, in order."""


class ImageFiles(EncodedImages):
    """Images in files, decoded on access.

    Args:
        root: folder of the files.
        names: file names relative to `root`, `[N]`.
        label: labels, `[N]`, int64.
        crop: crop of each image. If it has a `data_range`, images are float32 with white at 1.
        clean_label: true labels, `[N]`. None if the true labels are unknown.
    """

    def __init__(
        self, root: Path, names: Sequence[str], label: Tensor, crop: Crop, clean_label: Tensor | None = None
    ) -> None:
        self.root = root
        # DataLoader workers share this one block of memory. A list of a million Python strings would be copied into
        # every worker, one page at a time, as its strings are accessed.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self.label = label
        self.crop = crop
        self.num_uniform = crop.num_uniform
        self.data_range = 255 if crop.data_range is None else 1
        self.clean_label = clean_label

    @property
    def names(self) -> list[str]:
        return [os.fsdecode(name) for name in self._names]

    def sizes(self) -> list[tuple[int, int]]:
        return [size_in_header(self.root / name) for name in self.names]

    def encoded(self) -> Iterator[bytes]:
        return ((self.root / name).read_bytes() for name in self.names)

    def read(self, row: Tensor, uniform: Tensor | None, crop: Crop) -> Tensor:
        deep = crop.data_range is not None
        batch = torch.empty(len(row), 3, *crop.shape, dtype=torch.float32 if deep else torch.uint8)
        numbers = [None] * len(row) if uniform is None else uniform.tolist()
        for position, (file, own) in enumerate(zip(row.tolist(), numbers, strict=True)):
            path = self.root / os.fsdecode(self._names[file])
            try:
                pixels = read_deep_crop(path, crop, own, 3) if deep else read_crop(path, crop, own).transpose(2, 0, 1)
                batch[position] = torch.from_numpy(pixels)
            except UnreadableImage as error:
                if self.unreadable is None:
                    raise
                self.unreadable[file] = str(error)
                batch[position] = 0
        return batch


def files_of_classes(split: Path, folders: Sequence[tuple[str, int]], num_classes: int, crop: Crop) -> ImageFiles:
    """Find the images of a split with one folder per class.

    A class may lack a folder.

    Args:
        split: folder that contains the class folders.
        folders: name and label of each class folder.
        num_classes: total number of classes. If some classes have no folder, the attribute `classes` of the result
            lists the classes that have a folder.
        crop: crop of each image.
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
    """Find the images named in a list that has one file name and one label per line.

    Args:
        file: file of the list.
        root: folder of the images. The file names in the list are relative to this folder.
        crop: crop of each image.
        name: name of the dataset, for error messages.
        listed: number of classes that occur in the list.
        separator: text between file name and label. None means white space.
        num_classes: keep only the first `num_classes` classes. None keeps all.
    """
    names, labels = read_list(file, listed, separator)
    kept = [place for place, label in enumerate(labels) if num_classes is None or label < num_classes]
    names = [names[place] for place in kept]
    if names and not (root / names[0]).is_file():
        raise FileNotFoundError(f"{name}: {root / names[0]} does not exist, but {file} lists it")
    return ImageFiles(root, names, torch.tensor([labels[place] for place in kept], dtype=torch.int64), crop)


def read_list(file: Path, listed: int, separator: str | None = None) -> tuple[list[str], list[int]]:
    """Read a list: each line has a file name and a label, separated by white space or by `separator`.

    Args:
        file: file of the list, in UTF-8.
        listed: number of classes in the list; labels must be in 0 ... `listed` - 1.
        separator: text between file name and label. None means white space.
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


class OtherImages(FetchedSet, ABC):
    """Out-of-distribution images for a given dataset. They serve to test detection, or as open-set label noise."""

    @abstractmethod
    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImageSource:
        """Read the images, all labelled -1.

        Args:
            image_shape: shape C, H, W of the in-distribution images. The images of this dataset must have the same
                shape.
            seed: random seed, used by datasets that generate or select images at random.

        Raises:
            FileNotFoundError: if images are missing. The message names the expected path.
            ValueError: if images are damaged or have a different shape.
        """


class ImageSet(SplitSet[ImageSource], OtherImages):
    """A dataset of labelled images.

    Its test images can also serve as out-of-distribution images for another dataset.

    If the dataset has no validation images, the DataModule's `validation_fraction` holds out some of the training
    images.
    """

    image_shape: tuple[int, ...]
    """Shape C, H, W of the input images of the network."""
    num_views: int | None = None
    """Number of different random views of a training image; None if this number is unlimited."""

    @property
    def has_test(self) -> bool:
        """Whether there are test images.

        If not, a fraction of the training images can be held out for testing.
        """
        return True

    def prepare(self, seed: int, device: torch.device) -> Self:
        """Set the seed and the device for reading, and return the dataset itself.

        This method is called before any data are read.

        Args:
            seed: random seed, for generated datasets.
            device: device of this rank, for datasets that compute their samples.
        """
        return self

    def ood_test_sets(self) -> dict[str, ImageSource]:
        """Read the shifted test sets, by name. Their labels use the class numbers of the training set."""
        return {}

    def shifted_labels(self) -> dict[str, Tensor]:
        """Read only the labels of the shifted test sets, so that missing data are reported before training."""
        return {name: source.label for name, source in self.ood_test_sets().items()}

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImageSource:
        if tuple(self.image_shape) != tuple(image_shape):
            raise ValueError(
                f"{type(self).__name__} has images {list(self.image_shape)}, but in-distribution images are "
                f"{list(image_shape)}"
            )
        source = self.prepare(seed, torch.device("cpu")).test()
        source.label = torch.full_like(source.label, UNKNOWN)
        source.clean_label = None
        return source


class _ChangedSet(ImageSet):
    """Base class of datasets that change some images of a given dataset and keep its classes."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self.num_classes = images.num_classes
        self.image_shape = images.image_shape

    @property
    def class_names(self) -> Sequence[str] | None:  # type: ignore[override]
        return self.images.class_names

    def fetch_missing(self) -> None:
        self.images.fetch_missing()


class NoisyImages(_ChangedSet):
    """A dataset with noise added to its test images, for use as a shifted test set.

    The noise does not depend on the seed of the run.

    Args:
        images: dataset with images in memory.
        noise: noise that is added to the test images. The noisy images are clipped to [0, 1] and rounded to whole grey
            levels.
        seed: random seed of the noise.
    """

    def __init__(self, images: ImageSet, noise: ImageNoise, seed: int = 0) -> None:
        super().__init__(images)
        self.noise = noise
        self.seed = seed

    def training(self) -> ImageSource:
        return self.images.training()

    def test(self) -> ImagesInMemory:
        source = self.images.test()
        if not isinstance(source, ImagesInMemory):
            raise ValueError(f"NoisyImages needs a dataset with images in memory, got {type(self.images).__name__}")
        clean = source.image.float() / source.data_range
        noisy = self.noise.sample(clean, CounterRNG(self.seed, 0, torch.arange(len(clean))))
        changed = copy.copy(source)
        changed.image, changed.data_range = (noisy.clamp(0, 1) * 255).round().to(torch.uint8), 255
        return changed


class UnequalClasses(_ChangedSet):
    """A dataset with only some of the training images of each class. The test images stay the same.

    Args:
        images: dataset with images in memory.
        dropped: classes without training images.
        growth: rate g. The number of training images of class k is proportional to exp(g k). If g is 0, all images of
            the remaining classes are kept.
    """

    def __init__(self, images: ImageSet, dropped: Sequence[int] = (), growth: float = 0.0) -> None:
        if not set(dropped) < set(range(images.num_classes)):
            raise ValueError(
                f"dropped must list some, but not all, of the classes 0...{images.num_classes - 1}, got {[*dropped]}"
            )
        super().__init__(images)
        self.dropped = dropped
        self.growth = growth

    def training(self) -> ImagesInMemory:
        source = self.images.training()
        if not isinstance(source, ImagesInMemory):
            raise ValueError(f"UnequalClasses needs a dataset with images in memory, got {type(self.images).__name__}")
        kept = source.label.bincount(minlength=self.num_classes)
        if self.growth:
            relative = (self.growth * torch.arange(self.num_classes, dtype=torch.float64)).exp()
            kept = (relative * (kept / relative).min()).ceil().long()
        kept[[*self.dropped]] = 0
        rows = [(source.label == label).nonzero()[:count, 0] for label, count in enumerate(kept.tolist())]
        row = torch.cat(rows).sort().values
        true = None if source.clean_label is None else source.clean_label[row]
        return ImagesInMemory(source.image[row], source.label[row], source.data_range, true)

    def test(self) -> ImageSource:
        return self.images.test()
