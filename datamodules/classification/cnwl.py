"""Controlled noisy web labels (CNWL): mini-ImageNet with web images in place of a stated share of its own.

Source: Jiang, Huang, Liu and Yang, Beyond Synthetic Noise: Deep Learning on Controlled Noisy Labels, ICML 2020, arXiv
1911.09781; the split files are those that distributions for 32 x 32 pixels use.
"""

from pathlib import Path
from typing import Literal, get_args

import torch

from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.webvision import read_list
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, ImageFiles, Interpolation

Rate = Literal["0.0", "0.2", "0.4", "0.6", "0.8"]


class CNWL(LabelledImages):
    """Mini-ImageNet of 100 classes with red noise: 50,000 images to train on, 5,000 to test on.

    Reads `split/red_noise_nl_RATE` and `split/validation`, lines of a file and a label, with the images in
    `all_images_resampled_84/` and `validation/LABEL/`. Training images whose names begin with n are ImageNet's own; the
    web images among the others, nearly all, do not show their class, so their true label is -1. There are no validation
    images apart from those that test, so what chooses an epoch by them chooses by the test set.

    Args:
        data_dir: folder that holds `split`; None looks where NOISEWORKS_DATA points.
        noise_rate: share of the training images that are from the web: "0.0", "0.2", "0.4", "0.6" or "0.8".
        image_size: height and width of the images that the network gets, in pixels.
        interpolation: that resizes images, with antialiasing: bilinear or bicubic.

    Raises:
        FileNotFoundError: if a list or the images are missing.
        ValueError: if a list is damaged or an argument out of range.
    """

    num_classes = 100

    def __init__(
        self,
        data_dir: str | None = None,
        noise_rate: Rate = "0.4",
        batch_size: int = 256,
        evaluation_batch_size: int | None = None,
        image_size: int = 32,
        interpolation: Interpolation = "bilinear",
        crop_padding: int = 4,
        flip: bool = True,
        passes_per_epoch: int = 1,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            evaluation_batch_size=evaluation_batch_size,
            crop_padding=crop_padding,
            flip=flip,
            passes_per_epoch=passes_per_epoch,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            seed=seed,
        )
        if noise_rate not in get_args(Rate):
            raise ValueError(f"noise_rate must be one of {', '.join(get_args(Rate))}, got {noise_rate}")
        self.noise_rate = noise_rate
        self.crop = Crop(image_size, image_size, interpolation)
        self.image_shape = (3, image_size, image_size)
        self.data_dir = data_dir

    def read_training(self) -> ImageFiles:
        source = self._read(f"red_noise_nl_{self.noise_rate}", training=True)
        own = torch.tensor([Path(name).name.startswith("n") for name in source.names])
        source.clean_label = torch.where(own, source.label, -1)  # type: ignore[attr-defined]
        return source

    def read_validation(self) -> ImageFiles:
        return self._read("validation", training=False)

    def read_test(self) -> ImageFiles:
        return self._read("validation", training=False)

    def _read(self, split: str, training: bool) -> ImageFiles:
        root = data_directory(self.data_dir, "CNWL")
        file = root / "split" / split
        if not file.is_file():
            raise FileNotFoundError(
                f"CNWL: {file} does not exist; fetch images and splits from "
                f"https://google.github.io/controlled-noisy-web-labels/download.html and set data.data_dir to their "
                f"folder"
            )
        names, label = read_list(file)
        if training:
            names = [f"all_images_resampled_84/{name}" for name in names]
        else:
            names = [f"validation/{category}/{name}" for name, category in zip(names, label.tolist(), strict=True)]
        if names and not (root / names[0]).is_file():
            raise FileNotFoundError(f"CNWL: {root / names[0]} does not exist; {file} names it")
        return ImageFiles(root, names, label, self.crop)
