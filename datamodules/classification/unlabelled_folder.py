"""A folder of a user's own images without classes, for methods that learn from images alone."""

from pathlib import Path

import torch

from datamodules.classification.image_sets import ImageFiles, ImageSet
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import chosen_crop, image_names, required_folder


class UnlabelledFolder(ImageSet):
    """The images of a folder and its subfolders, in the formats of `ImageFolder`, all of one class that says nothing.

    Args:
        data_dir: folder that holds the images.
        image_size: height and width of the images that the module gets, in pixels.
        resize: short side that images are resized to before a square is cut out, in pixels.
        min_area: least part of an image's area that a training crop shows, in (0, 1]; None cuts a square at a random
            place, as methods need that draw their own views.

    Raises:
        FileNotFoundError: if the folder is missing or holds no image.
        ValueError: if an argument is out of range.
    """

    num_classes = 1

    def __init__(self, data_dir: str, image_size: int = 224, resize: int = 256, min_area: float | None = None) -> None:
        self.crop = chosen_crop(image_size, resize, min_area)
        self.root: Path = data_directory(data_dir, "UnlabelledFolder")
        required_folder(self.root, "data_dir")
        self.image_shape = (3, image_size, image_size)

    def training(self) -> ImageFiles:
        names = image_names(self.root)
        return ImageFiles(self.root, names, torch.zeros(len(names), dtype=torch.int64), self.crop)

    def test(self) -> ImageFiles:
        return self.training()
