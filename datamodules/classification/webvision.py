"""WebVision 1.0: photographs that image search found for ImageNet's 1,000 classes, and mini-WebVision, the first 50 of
them.

Source: Li, Wang, Li, Agustsson and Van Gool, WebVision Database: Visual Learning and Understanding from Web Data, arXiv
1708.02862.
"""

from pathlib import Path
from typing import Literal

from datamodules.arguments import one_of, only_with, within
from datamodules.classification.image_sets import ImageFiles, ImageSet, listed_files
from datamodules.classification.imagenet import imagenet_split
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, Interpolation, class_folders, files_by_class
from datamodules.files.text_files import read_text

LISTED = 1000
"""Classes in the set's lists, of which the first ones are kept."""


class WebVision(ImageSet):
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
        resize: short side that images are resized to before they are cut, in pixels; None takes
            256/227 of `image_size`.
        interpolation: between pixels when images are resized, with antialiasing: bilinear or bicubic.

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
        image_size: int = 227,
        resize: int | None = None,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        within(1, 1000, num_classes=num_classes)
        one_of(("webvision", "imagenet"), test_on=test_on)
        only_with("test_on imagenet", test_on == "imagenet", WebVision, imagenet_dir=imagenet_dir)
        self.data_dir = data_dir
        self.num_classes = num_classes
        self.test_on = test_on
        self.imagenet_dir = imagenet_dir
        self.crop = Crop(image_size, round(image_size * 256 / 227) if resize is None else resize, interpolation)
        self.image_shape = (3, image_size, image_size)

    def training(self) -> ImageFiles:
        return self._read("train_filelist_google.txt", ".")

    def validation(self) -> ImageFiles:
        return self._read("val_filelist.txt", "val_images_256")

    def test(self) -> ImageFiles:
        if self.test_on == "webvision":
            return self.validation()
        root = data_directory(self.data_dir, "WebVision")
        given = root if self.imagenet_dir is None else Path(self.imagenet_dir).expanduser()
        folder = imagenet_split(given, "val")
        return ImageFiles(folder, *files_by_class(folder, self._wnids(root, folder)), self.crop)

    def _wnids(self, root: Path, folder: Path) -> list[str]:
        """List ImageNet's names of the classes. `info/synsets.txt` lists them in their order, which is alphabetical."""
        synsets = root / "info" / "synsets.txt"
        if not synsets.is_file():
            return class_folders(folder)[: self.num_classes]
        listed = [line.split()[0] for line in read_text(synsets).splitlines() if line.strip()]
        if len(listed) < self.num_classes:
            raise ValueError(f"WebVision: {synsets} lists {len(listed)} classes, and num_classes is {self.num_classes}")
        return listed[: self.num_classes]

    def _read(self, name: str, images: str) -> ImageFiles:
        root = data_directory(self.data_dir, "WebVision")
        file = root / "info" / name
        if not file.is_file():
            raise FileNotFoundError(
                f"WebVision: {file} does not exist; fetch labels and images resized to 256 pixels from "
                f"https://data.vision.ee.ethz.ch/cvl/webvision/dataset2017.html and set data_dir to their folder"
            )
        return listed_files(file, root / images, self.crop, "WebVision", LISTED, num_classes=self.num_classes)
