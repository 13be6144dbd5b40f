"""Controlled noisy web labels (CNWL): mini-ImageNet with a chosen fraction of its images replaced by web images.

Source: Jiang, Huang, Liu and Yang, Beyond Synthetic Noise: Deep Learning on Controlled Noisy Labels, ICML 2020, arXiv
1911.09781; the split files are those that circulate with 32 x 32 pixel versions of the dataset.
"""

from pathlib import Path
from typing import Literal, get_args

import torch

from datamodules.arguments import one_of
from datamodules.classification.image_sets import UNKNOWN, ImageFiles, ImageSet, read_list
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, Interpolation

Rate = Literal["0.0", "0.2", "0.4", "0.6", "0.8"]


class CNWL(ImageSet):
    """Mini-ImageNet with 100 classes and noise from the web ("red noise"): 50,000 training and 5,000 test images.

    The lists `split/red_noise_nl_RATE` and `split/validation` contain one file name and label per line. The images are
    in `all_images_resampled_84/` and `validation/LABEL/`. Training images whose names begin with `n` are from ImageNet.
    All other training images are from the web. Almost no web image shows the class of its label, so the true label of
    every web image is set to -1. The validation images are also the test images. If the epoch is selected by validation
    accuracy, it is therefore selected on the test set.

    Args:
        data_dir: folder that contains `split`. None means the NOISEWORKS_DATA directory.
        noise_rate: fraction of training images from the web: "0.0", "0.2", "0.4", "0.6" or "0.8".
        image_size: height and width of the input images of the network, in pixels.
        interpolation: interpolation for resizing, "bilinear" or "bicubic". Both use antialiasing.
    """

    num_classes = 100

    def __init__(
        self,
        data_dir: str | None = None,
        noise_rate: Rate = "0.4",
        image_size: int = 32,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        one_of(get_args(Rate), noise_rate=noise_rate)
        self.data_dir = data_dir
        self.noise_rate = noise_rate
        self.crop = Crop(image_size, image_size, interpolation)
        self.image_shape = (3, image_size, image_size)

    def training(self) -> ImageFiles:
        source = self._read(f"red_noise_nl_{self.noise_rate}")
        own = torch.tensor([Path(name).name.startswith("n") for name in source.names])
        source.clean_label = torch.where(own, source.label, UNKNOWN)
        return source

    def validation(self) -> ImageFiles:
        return self._read("validation")

    def test(self) -> ImageFiles:
        return self._read("validation")

    def _read(self, split: str) -> ImageFiles:
        root = data_directory(self.data_dir, "CNWL")
        file = root / "split" / split
        if not file.is_file():
            raise FileNotFoundError(
                f"CNWL: {file} does not exist; download images and splits from "
                f"https://google.github.io/controlled-noisy-web-labels/download.html and set data_dir to their folder"
            )
        names, labels = read_list(file, self.num_classes)
        if split == "validation":
            names = [f"validation/{label}/{name}" for name, label in zip(names, labels, strict=True)]
        else:
            names = [f"all_images_resampled_84/{name}" for name in names]
        if not (root / names[0]).is_file():
            raise FileNotFoundError(f"CNWL: {root / names[0]}, listed in {file}, does not exist")
        return ImageFiles(root, names, torch.tensor(labels), self.crop)
