"""MNIST (60,000 training and 10,000 test images: grey handwritten digits, 28 x 28 pixels), and MedMNIST."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import MNIST as TorchvisionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from datamodules.arguments import at_least, one_of
from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.files.array_files import read_npz
from datamodules.files.data_directory import data_directory, download_directory
from datamodules.files.limits import to_int64


class MNIST(ImageSet):
    """MNIST, read from files in torchvision's layout: `<data_dir>/MNIST/raw/*-ubyte`.

    Args:
        data_dir: folder that contains `MNIST`. None means the NOISEWORKS_DATA directory.
        download: whether to download missing files.
    """

    num_classes = 10
    image_shape = (1, 28, 28)

    def __init__(self, data_dir: str | None = None, download: bool = False) -> None:
        self.data_dir = data_dir
        self.download = download

    def fetch_missing(self) -> None:
        if self.download:
            TorchvisionMNIST(download_directory(self.data_dir), download=True)

    def training(self) -> ImagesInMemory:
        return self._read("train")

    def test(self) -> ImagesInMemory:
        return self._read("t10k")

    def _read(self, split: str) -> ImagesInMemory:
        directory = data_directory(self.data_dir, "MNIST")
        files = [Path(directory, "MNIST", "raw", f"{split}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(
                    f"MNIST: {file} does not exist; set data_dir to the folder that contains MNIST/raw, or set "
                    f"download to true"
                )
        try:
            image, label = read_image_file(str(files[0])), read_label_file(str(files[1]))
        except Exception as error:  # a damaged file may raise almost any exception type
            raise ValueError(f"MNIST: {files[0].parent} contains a damaged file ({error}); fetch it again") from error
        if image.dtype != torch.uint8 or tuple(image.shape[1:]) != self.image_shape[1:]:
            raise ValueError(f"MNIST: {files[0]} has {list(image.shape)} {image.dtype}, expected [N, 28, 28] uint8")
        label = torch.from_numpy(to_int64(label.numpy(), 0, self.num_classes - 1, files[1], "label"))
        if len(image) != len(label):
            raise ValueError(f"MNIST: {files[0]} has {len(image)} images, but {files[1]} has {len(label)} labels")
        return ImagesInMemory(image[:, None].to(torch.uint8), label)


class MedMNIST(ImageSet):
    """A MedMNIST dataset with one label per image, from the distributed file `<data_dir>/<name>/<name>.npz`.

    The file may also be at `<data_dir>/<name>.npz`. The file contains `{train,val,test}_images`, `[N, H, W]` or `[N, H,
    W, 3]`, uint8, and `{train,val,test}_labels`, `[N, 1]`. The images in the file may be sorted by class: this does not
    matter, because training batches are shuffled.

    Args:
        name: name of the dataset, such as pneumoniamnist.
        num_classes: number of classes.
        data_dir: folder that contains the file. None means the NOISEWORKS_DATA directory.
        image_size: height and width of the images, in pixels. In the first edition of MedMNIST, this size is 28.
        channels: number of channels of the images, 1 for grey and 3 for colour.
    """

    def __init__(
        self, name: str, num_classes: int, data_dir: str | None = None, image_size: int = 28, channels: int = 1
    ) -> None:
        at_least(2, num_classes=num_classes)
        at_least(1, image_size=image_size)
        one_of((1, 3), channels=channels)
        self.name = name
        self.num_classes = num_classes
        self.data_dir = data_dir
        self.image_shape = (channels, image_size, image_size)

    def training(self) -> ImagesInMemory:
        return self._read("train")

    def validation(self) -> ImagesInMemory:
        return self._read("val")

    def test(self) -> ImagesInMemory:
        return self._read("test")

    def _read(self, split: str) -> ImagesInMemory:
        directory = data_directory(self.data_dir, "MedMNIST")
        places = [directory / self.name / f"{self.name}.npz", directory / f"{self.name}.npz"]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"MedMNIST: {places[0]} does not exist; download the set's file from medmnist.com to this path, or set "
                f"data_dir to the folder that contains it"
            )
        keys = f"{split}_images", f"{split}_labels"
        try:
            arrays = read_npz(file, keys)
        except ValueError as error:
            raise ValueError(f"MedMNIST: {file} is damaged or lacks {keys[0]} or {keys[1]} ({error})") from error
        if arrays[keys[0]].dtype != np.uint8 or arrays[keys[0]].ndim not in (3, 4):
            image_is = f"{list(arrays[keys[0]].shape)} of {arrays[keys[0]].dtype}"
            raise ValueError(f"MedMNIST: {file} has images {image_is}, expected [N, H, W] or [N, H, W, 3] of uint8")
        image = torch.from_numpy(arrays[keys[0]])
        label = torch.from_numpy(to_int64(arrays[keys[1]], 0, self.num_classes - 1, file, "label"))
        image = image[:, None] if image.ndim == 3 else image.movedim(-1, 1)
        if image.shape[1:] != self.image_shape:
            raise ValueError(
                f"MedMNIST: {file} has images {list(image.shape[1:])} of {image.dtype}, expected "
                f"{list(self.image_shape)} of torch.uint8"
            )
        if label.shape != (len(image), 1):
            raise ValueError(
                f"MedMNIST: {file} has labels {list(label.shape)}, expected {[len(image), 1]}: one per image"
            )
        return ImagesInMemory(image.contiguous(), label[:, 0])


class JoinedMedMNIST(ImageSet):
    """Several MedMNIST datasets as one, such as X-rays, ultrasound and CT of several organs.

    The class numbers of each dataset follow those of the previous dataset. All images have the same size and number of
    channels.

    Args:
        sets: dictionary that maps the name of each set to its number of classes, such as `{pneumoniamnist: 2,
            breastmnist: 2}`.
        data_dir: folder that contains the files, as for `MedMNIST`. None means the NOISEWORKS_DATA directory.
        image_size: height and width of the images, in pixels.
        channels: number of channels of the images, 1 for grey and 3 for colour.
    """

    def __init__(
        self, sets: Mapping[str, int], data_dir: str | None = None, image_size: int = 28, channels: int = 1
    ) -> None:
        if not sets:
            raise ValueError("sets must name at least one MedMNIST set, with its number of classes")
        self.sets = [MedMNIST(name, count, data_dir, image_size, channels) for name, count in sets.items()]
        self.num_classes = sum(sets.values())
        self.image_shape = self.sets[0].image_shape

    def training(self) -> ImagesInMemory:
        return self._join([each.training() for each in self.sets])

    def validation(self) -> ImagesInMemory:
        return self._join([each.validation() for each in self.sets])

    def test(self) -> ImagesInMemory:
        return self._join([each.test() for each in self.sets])

    def _join(self, sources: list[ImagesInMemory]) -> ImagesInMemory:
        counts = [0, *(each.num_classes for each in self.sets)]
        label = [source.label + sum(counts[: place + 1]) for place, source in enumerate(sources)]
        return ImagesInMemory(torch.cat([source.image for source in sources]), torch.cat(label))
