"""Clothing1M: a million photographs of clothes whose labels come from the text around them, 14 classes, about 38 %
wrong.

Source: Xiao, Xia, Yang, Huang and Wang, Learning from Massive Noisy Labeled Data for Image Classification, CVPR 2015.
"""

from pathlib import Path

import numpy as np
import torch

from datamodules.classification.labelled_images import LabelledImages
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, ImageFiles


class Clothing1M(LabelledImages):
    """Clothing1M in its authors' layout: `images/`, and in `annotations/` or beside it the lists and labels.

    Trains on the images with noisy labels (`noisy_train_key_list.txt`), validates and tests on those with clean ones
    (`clean_val_key_list.txt`, `clean_test_key_list.txt`). Images are resized and cut at a random place.

    Args:
        data_dir: folder that holds `images`; None looks where NOISEWORKS_DATA points.
        batches_per_epoch: batches of an epoch's pass, drawn anew each time with the same number of images of each noisy
            label; a class with fewer images gives all of them. None takes all images.
        image_size: height and width of the images that the network gets, in pixels.
        resize: short side that images are resized to before they are cut, in pixels.

    Raises:
        FileNotFoundError: if a list or the images are missing.
        ValueError: if a list is damaged or an argument out of range.
    """

    num_classes = 14
    class_names = [  # noqa: RUF012
        *("T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker"),
        *("Jacket", "Down Coat", "Suit", "Shawl", "Dress", "Vest", "Underwear"),
    ]

    def __init__(
        self,
        data_dir: str | None = None,
        batch_size: int = 64,
        batches_per_epoch: int | None = 2000,
        evaluation_batch_size: int | None = None,
        image_size: int = 224,
        resize: int = 256,
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
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise ValueError(f"batches_per_epoch must be at least 1, got {batches_per_epoch}")
        self.batches_per_epoch = batches_per_epoch
        self.crop = Crop(image_size, resize)
        self.image_shape = (3, image_size, image_size)
        self.data_dir = data_dir

    def read_training(self) -> ImageFiles:
        return self._read("noisy_train", "noisy")

    def read_validation(self) -> ImageFiles:
        return self._read("clean_val", "clean")

    def read_test(self) -> ImageFiles:
        return self._read("clean_test", "clean")

    def _read(self, split: str, kind: str) -> ImageFiles:
        root = data_directory(self.data_dir, "Clothing1M")
        keys = self._list(root, f"{split}_key_list.txt").read_text().split()
        labels_file = self._list(root, f"{kind}_label_kv.txt")
        words = labels_file.read_text().split()
        label_of = dict(zip(words[::2], words[1::2], strict=False))
        try:
            label = torch.tensor([int(label_of[key]) for key in keys])
        except (KeyError, ValueError) as error:
            raise ValueError(f"Clothing1M: {labels_file} has no label for an image of {split}: {error}") from error
        if keys and not (root / keys[0]).is_file():  # `images` itself may have been given
            stripped = [key.removeprefix("images/") for key in keys]
            if not (root / stripped[0]).is_file():
                raise FileNotFoundError(
                    f"Clothing1M: {root / keys[0]} does not exist; extract the archives of images into "
                    f"{root / 'images'}"
                )
            keys = stripped
        return ImageFiles(root, keys, label, self.crop)

    @staticmethod
    def _list(root: Path, name: str) -> Path:
        for folder in (root, root / "annotations", root.parent, root.parent / "annotations"):
            if (file := folder / name).is_file():
                return file
        raise FileNotFoundError(
            f"Clothing1M: {root / 'annotations' / name} does not exist; ask the authors for the set as "
            f"https://github.com/Cysu/noisy_label says, and set data.data_dir to its folder"
        )

    def _images_per_class(self) -> np.ndarray:
        """How many images of each class an epoch's pass takes, `[14]`."""
        available = np.bincount(self._given.numpy(), minlength=self.num_classes)
        if self.batches_per_epoch is None:
            return available
        share, rest = divmod(self.batches_per_epoch * self.batch_size, self.num_classes)
        return np.minimum(available, share + (np.arange(self.num_classes) < rest))

    def samples_per_epoch(self) -> int:
        return int(self._images_per_class().sum())

    def draw_epoch(self, random: np.random.Generator) -> np.ndarray:
        given = self._given.numpy()
        chosen = [
            random.permutation(np.flatnonzero(given == category))[:count]
            for category, count in enumerate(self._images_per_class())
        ]
        return random.permutation(np.concatenate(chosen))
