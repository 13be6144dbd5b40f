"""Images of a folder that nobody has seen before, to be predicted by what was trained on another set."""

from pathlib import Path

import torch
from torch import Tensor

from datamodules.classification.image_sets import UNKNOWN, ImageFiles, ImageSet
from datamodules.files.image_files import Crop, image_names, required_folder


class NewImages(ImageFiles):
    """The images of a folder and its subfolders, cut out as those of a data set; the classes are known where folders
    have the classes' names.

    Args:
        folder: the images, in the formats of `ImageFolder`.
        images: the data set; of one that reads no files, images get its height and width.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: if the data set holds no square images in grey or colour.
    """

    def __init__(self, folder: str, images: ImageSet) -> None:
        root = Path(folder).expanduser()
        required_folder(root, "predict_dir")
        shape = images.image_shape
        if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
            raise ValueError(
                f"predict_dir gives square images in grey or colour, and those of {type(images).__name__} are "
                f"{list(shape)}"
            )
        names = image_names(root)
        number = {name: position for position, name in enumerate(images.class_names or ())}
        label = torch.tensor([number.get(name.split("/")[0], UNKNOWN) for name in names])
        super().__init__(root, names, label, getattr(images, "crop", None) or Crop(shape[1], shape[1]))
        self.grey = shape[0] == 1

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        image = super().fetch(row, uniform)
        if not self.grey:
            return image
        weight = torch.tensor([299, 587, 114]).view(1, 3, 1, 1)  # as Pillow's conversion to grey
        return ((image.long() * weight).sum(dim=1, keepdim=True) + 500).div(1000, rounding_mode="floor").byte()
