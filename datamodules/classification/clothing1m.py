"""Clothing1M: a million photographs of clothes in 14 classes. The labels were derived from the text around each image.

About 38 % of the labels are wrong.

Source: Xiao, Xia, Yang, Huang and Wang, Learning from Massive Noisy Labeled Data for Image Classification, CVPR 2015.
"""

from pathlib import Path

import torch

from datamodules.classification.image_sets import ImageFiles, ImageSet
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop
from datamodules.files.limits import to_int64
from datamodules.files.text_files import read_text


class Clothing1M(ImageSet):
    """Clothing1M in the authors' layout.

    The files that list images and labels are either in `annotations/` or in the folder that contains `images/`.

    Training uses the images with noisy labels, listed in `noisy_train_key_list.txt`. Validation and testing use images
    with clean labels, listed in `clean_val_key_list.txt` and `clean_test_key_list.txt`. Images are resized and then
    cropped: training images at a random position, all other images at the centre.

    Args:
        data_dir: folder that contains `images`. None means the NOISEWORKS_DATA directory.
        image_size: height and width of the input images of the network, in pixels.
        resize: length of the short side after resizing, before the crop, in pixels. None means `image_size * 256 /
            224`.
    """

    num_classes = 14
    class_names = [  # noqa: RUF012
        *("T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker"),
        *("Jacket", "Down Coat", "Suit", "Shawl", "Dress", "Vest", "Underwear"),
    ]

    def __init__(self, data_dir: str | None = None, image_size: int = 224, resize: int | None = None) -> None:
        self.data_dir = data_dir
        self.crop = Crop(image_size, resize)
        self.image_shape = (3, image_size, image_size)

    def training(self) -> ImageFiles:
        return self._read("noisy_train", "noisy")

    def validation(self) -> ImageFiles:
        return self._read("clean_val", "clean")

    def test(self) -> ImageFiles:
        return self._read("clean_test", "clean")

    def _read(self, split: str, kind: str) -> ImageFiles:
        root = data_directory(self.data_dir, "Clothing1M")
        keys = read_text(self._list(root, f"{split}_key_list.txt")).split()
        labels_file = self._list(root, f"{kind}_label_kv.txt")
        words = read_text(labels_file).split()
        label_of = dict(zip(words[::2], words[1::2], strict=False))
        try:
            label = torch.from_numpy(
                to_int64([int(label_of[key]) for key in keys], 0, self.num_classes - 1, labels_file, "label")
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"Clothing1M: {labels_file} has no label for an image of {split}: {error}") from error
        if keys and not (root / keys[0]).is_file():  # data_dir may be `images` itself
            stripped = [key.removeprefix("images/") for key in keys]
            if not (root / stripped[0]).is_file():
                raise FileNotFoundError(
                    f"Clothing1M: {root / keys[0]} does not exist; extract the image archives into {root / 'images'}"
                )
            keys = stripped
        return ImageFiles(root, keys, label, self.crop)

    @staticmethod
    def _list(root: Path, name: str) -> Path:
        for folder in (root, root / "annotations", root.parent, root.parent / "annotations"):
            if (file := folder / name).is_file():
                return file
        raise FileNotFoundError(
            f"Clothing1M: {root / 'annotations' / name} does not exist; request the set as described at "
            f"https://github.com/Cysu/noisy_label, and set data_dir to its folder"
        )
