"""WebVision 1.0, photographs from image search for the 1,000 classes of ImageNet, and its part mini-WebVision.

Mini-WebVision consists of the first 50 classes.

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
"""Number of classes in WebVision's lists. The dataset keeps only the first `num_classes` classes."""


class WebVision(ImageSet):
    """Images that were found by Google search, and labelled by the search query.

    Mini-WebVision has 66,000 images of 50 classes.

    `info/train_filelist_google.txt` lists the images in `google/`, and `info/val_filelist.txt` lists the images in
    `val_images_256/`. Validation uses the validation images of WebVision, because the labels of WebVision's test images
    are not public. With `test_on: webvision`, the test images are the validation images, and the epoch is therefore
    selected on the test images, as is usual in papers. With `test_on: imagenet`, the test images are different images.
    Images are resized and then cropped: training images at a random position, all other images at the centre.

    Args:
        data_dir: folder that contains `info`, `google` and `val_images_256`. None means the NOISEWORKS_DATA directory.
        num_classes: number n of classes, in 1...1000. The first n classes are kept.
        test_on: dataset whose validation images are the test images, "webvision" or "imagenet". Both datasets have the
            same classes.
        imagenet_dir: folder that contains the folders `val/<wnid>` of ImageNet. None means `data_dir`.
        image_size: height and width of the input images of the network, in pixels.
        resize: length of the short side after resizing, before the crop, in pixels. None means `image_size * 256 /
            227`.
        interpolation: interpolation for resizing, with antialiasing: bilinear or bicubic.
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
        """List the classes' WordNet IDs.

        `info/synsets.txt` lists the IDs in class order, which is also alphabetical order.
        """
        synsets = root / "info" / "synsets.txt"
        if not synsets.is_file():
            return class_folders(folder)[: self.num_classes]
        listed = [line.split()[0] for line in read_text(synsets).splitlines() if line.strip()]
        if len(listed) < self.num_classes:
            raise ValueError(f"WebVision: {synsets} lists {len(listed)} classes, but num_classes is {self.num_classes}")
        return listed[: self.num_classes]

    def _read(self, name: str, images: str) -> ImageFiles:
        root = data_directory(self.data_dir, "WebVision")
        file = root / "info" / name
        if not file.is_file():
            raise FileNotFoundError(
                f"WebVision: {file} does not exist; download labels and images resized to 256 pixels from "
                f"https://data.vision.ee.ethz.ch/cvl/webvision/dataset2017.html and set data_dir to their folder"
            )
        return listed_files(file, root / images, self.crop, "WebVision", LISTED, num_classes=self.num_classes)
