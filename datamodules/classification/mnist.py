"""MNIST: 60,000 + 10,000 grey images of handwritten digits, 28 x 28 pixels."""

from pathlib import Path

import torch
from torchvision.datasets import MNIST as TorchvisionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from datamodules.classification.labelled_images import ImagesInMemory, LabelledImages
from datamodules.corruptions.label_noise import LabelNoise
from datamodules.files.data_directory import data_directory, download_directory


class MNIST(LabelledImages):
    """MNIST from torchvision's layout: `<data_dir>/MNIST/raw/*-ubyte`.

    Args:
        data_dir: folder that holds `MNIST`; None looks where NOISEWORKS_DATA points.
        batch_size: training images of a step over all processes.
        label_noise: what makes training and validation labels wrong; None leaves them.
        validation_fraction: part of each class that is held out of training, in [0, 1).
        evaluation_batch_size: images of an evaluation batch over all processes; None takes `batch_size`.
        crop_padding: zeros around a training image before it is cropped back at a random place, in pixels.
        passes_per_epoch: times that an epoch visits the training set.
        download: fetch missing files.
        seed: of split, noise, order and augmentation; None takes `seed_everything`.

    Raises:
        FileNotFoundError: if a file is missing and `download` is false.
        ValueError: if a file is damaged or an argument out of range.
    """

    num_classes = 10
    image_shape = (1, 28, 28)

    def __init__(
        self,
        data_dir: str | None = None,
        batch_size: int = 128,
        label_noise: LabelNoise | None = None,
        validation_fraction: float = 0.0,
        evaluation_batch_size: int | None = None,
        crop_padding: int = 0,
        passes_per_epoch: int = 1,
        download: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            label_noise,
            validation_fraction,
            evaluation_batch_size,
            crop_padding,
            passes_per_epoch=passes_per_epoch,
            seed=seed,
        )
        self.data_dir = data_dir
        self.download = download

    def prepare_data(self) -> None:
        if self.download:
            root = download_directory(self.data_dir)
            TorchvisionMNIST(root, download=True)

    def read_training(self) -> ImagesInMemory:
        return self._read("train")

    def read_test(self) -> ImagesInMemory:
        return self._read("t10k")

    def _read(self, split: str) -> ImagesInMemory:
        directory = data_directory(self.data_dir, "MNIST")
        files = [Path(directory, "MNIST", "raw", f"{split}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(
                    f"MNIST: {file} does not exist; set data.data_dir to the folder that holds MNIST/raw, "
                    f"or data.download to true to fetch it"
                )
        try:
            image, label = read_image_file(str(files[0])), read_label_file(str(files[1]))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(f"MNIST: {files[0].parent} holds a damaged file ({error}); fetch it again") from error
        if len(image) != len(label):
            raise ValueError(f"MNIST: {files[0]} holds {len(image)} images and {files[1]} {len(label)} labels")
        return ImagesInMemory(image[:, None].to(torch.uint8), label)
