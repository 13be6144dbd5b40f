"""WebVision 1.0: photographs that image search found for ImageNet's 1,000 classes, and mini-WebVision, the first 50 of
them.

Source: Li, Wang, Li, Agustsson and Van Gool, WebVision Database: Visual Learning and Understanding from Web Data, arXiv
1708.02862.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from datamodules.classification.imagenet import imagenet_split
from datamodules.classification.labelled_images import LabelledImages
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, ImageFiles, Interpolation, class_folders, files_by_class


class WebVision(LabelledImages):
    """The images that Google found, with the query's class for a label: 66,000 of 50 classes are mini-WebVision.

    Reads `info/train_filelist_google.txt` with the images in `google/`, and `info/val_filelist.txt` with the images in
    `val_images_256/`. Validates on WebVision's validation images, as its test labels are not public. So `test_on:
    webvision` tests on the images that chose the epoch, as papers do, and `imagenet` on other ones. Images are resized
    and cut at a random place.

    Args:
        data_dir: folder that holds `info`, `google` and `val_images_256`; None looks where NOISEWORKS_DATA points.
        num_classes: classes that are kept, the first ones, in 1...1000.
        test_on: validation images of `webvision`, or of `imagenet` for the same classes.
        imagenet_dir: folder that holds ImageNet's `val/<wnid>`; None looks in `data_dir`.
        image_size: height and width of the images that the network gets, in pixels.
        resize: short side that images are resized to before they are cut, in pixels; that of the images as distributed
            is 256.
        interpolation: that resizes images, with antialiasing: bilinear or bicubic.

    Raises:
        FileNotFoundError: if a list or the images are missing.
        ValueError: if a list is damaged or an argument out of range.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        num_classes: int = 50,
        test_on: Literal["webvision", "imagenet"] = "webvision",
        imagenet_dir: str | None = None,
        batch_size: int = 32,
        evaluation_batch_size: int | None = None,
        image_size: int = 227,
        resize: int = 256,
        interpolation: Interpolation = "bilinear",
        flip: bool = True,
        passes_per_epoch: int = 1,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            evaluation_batch_size=evaluation_batch_size,
            flip=flip,
            passes_per_epoch=passes_per_epoch,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            seed=seed,
        )
        if not 1 <= num_classes <= 1000:
            raise ValueError(f"num_classes must be in 1...1000, got {num_classes}")
        if test_on not in ("webvision", "imagenet"):
            raise ValueError(f"test_on must be webvision or imagenet, got {test_on}")
        self.num_classes = num_classes
        self.test_on = test_on
        self.imagenet_dir = imagenet_dir
        self.crop = Crop(image_size, resize, interpolation)
        self.image_shape = (3, image_size, image_size)
        self.data_dir = data_dir

    def read_training(self) -> ImageFiles:
        return self._read("train_filelist_google.txt", ".")

    def read_validation(self) -> ImageFiles:
        return self._read("val_filelist.txt", "val_images_256")

    def read_test(self) -> ImageFiles:
        if self.test_on == "webvision":
            return self.read_validation()
        root = data_directory(self.data_dir, "WebVision")
        given = root if self.imagenet_dir is None else Path(self.imagenet_dir).expanduser()
        folder = imagenet_split(given, "val")
        return ImageFiles(folder, *files_by_class(folder, self._wnids(root, folder)), self.crop)

    def _wnids(self, root: Path, folder: Path) -> list[str]:
        """ImageNet's names of the classes. `info/synsets.txt` lists them in their order, which is alphabetical."""
        synsets = root / "info" / "synsets.txt"
        if not synsets.is_file():
            return class_folders(folder)[: self.num_classes]
        return [line.split()[0] for line in synsets.read_text().splitlines()[: self.num_classes]]

    def _read(self, name: str, images: str) -> ImageFiles:
        root = data_directory(self.data_dir, "WebVision")
        file = root / "info" / name
        if not file.is_file():
            raise FileNotFoundError(
                f"WebVision: {file} does not exist; fetch labels and images resized to 256 pixels from "
                f"https://data.vision.ee.ethz.ch/cvl/webvision/dataset2017.html and set data.data_dir to their folder"
            )
        names, label = read_list(file)
        kept = label < self.num_classes
        names = [name for name, keep in zip(names, kept.tolist(), strict=True) if keep]
        folder = root / images
        if names and not (folder / names[0]).is_file():
            raise FileNotFoundError(f"WebVision: {folder / names[0]} does not exist; {file} names it")
        return ImageFiles(folder, names, label[kept], self.crop)


def read_list(file: Path) -> tuple[list[str], Tensor]:
    """Reads lines of a file name and a label.

    Raises:
        ValueError: names the line that is not one.
    """
    names, labels = [], []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            name, label = line.split()
            labels.append(int(label))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: expected a file name and a label, got {line!r}") from error
        names.append(name)
    return names, torch.tensor(labels, dtype=torch.int64)
