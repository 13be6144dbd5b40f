"""MNIST: 60,000 + 10,000 grey images of handwritten digits, 28 x 28 pixels."""

from pathlib import Path

import torch
from torchvision.datasets import MNIST as TorchvisionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.files.data_directory import data_directory, download_directory


class MNIST(ImageSet):
    """MNIST from torchvision's layout: `<data_dir>/MNIST/raw/*-ubyte`.

    Args:
        data_dir: folder that holds `MNIST`; None looks where NOISEWORKS_DATA points.
        download: fetch missing files.

    Raises:
        FileNotFoundError: if a file is missing and `download` is false.
        ValueError: if a file is damaged.
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
                    f"MNIST: {file} does not exist; set data_dir to the folder that holds MNIST/raw, or download to "
                    f"true to fetch it"
                )
        try:
            image, label = read_image_file(str(files[0])), read_label_file(str(files[1]))
        except (AssertionError, RuntimeError, ValueError, LookupError) as error:
            raise ValueError(f"MNIST: {files[0].parent} holds a damaged file ({error}); fetch it again") from error
        if len(image) != len(label):
            raise ValueError(f"MNIST: {files[0]} holds {len(image)} images and {files[1]} {len(label)} labels")
        return ImagesInMemory(image[:, None].to(torch.uint8), label)
