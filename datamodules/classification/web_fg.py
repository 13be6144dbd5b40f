"""Web-bird, web-car and web-aircraft: fine-grained classes whose training images a web search found.

Source: Sun, Yao, Wei, Zhang, Shen, Wu, Zhang and Tang, Webly Supervised Fine-Grained Recognition: Benchmark Datasets
and An Approach, ICCV 2021, arXiv 2108.02399.
"""

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.classification.labelled_images import LabelledImages
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, ImageFiles, Interpolation

Subject = Literal["bird", "car", "aircraft"]
NUM_CLASSES: dict[Subject, int] = {"bird": 200, "car": 196, "aircraft": 100}


class WebFG(LabelledImages):
    """One of the three sets, from lists of lines `file:label`: `train-list.txt` to train on, `val-list.txt` to test on.

    There are no validation images apart from those that test, so what chooses an epoch by them chooses by the test set.
    Images are resized and cut at a random place.

    Args:
        data_dir: folder that holds the lists, or `web-bird` and so on with them; None looks where NOISEWORKS_DATA
            points.
        subject: bird (200 classes), car (196) or aircraft (100).
        image_size: height and width of the images that the network gets, in pixels.
        resize: short side that images are resized to before they are cut, in pixels.
        interpolation: that resizes images, with antialiasing: bilinear or bicubic.

    Raises:
        FileNotFoundError: if a list or the images are missing.
        ValueError: if a list is damaged or an argument out of range.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        subject: Subject = "bird",
        batch_size: int = 32,
        evaluation_batch_size: int | None = None,
        image_size: int = 448,
        resize: int = 512,
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
        if subject not in get_args(Subject):
            raise ValueError(f"subject must be one of {', '.join(get_args(Subject))}, got {subject}")
        self.subject = subject
        self.num_classes = NUM_CLASSES[subject]
        self.crop = Crop(image_size, resize, interpolation)
        self.image_shape = (3, image_size, image_size)
        self.data_dir = data_dir

    def read_training(self) -> ImageFiles:
        return self._read("train-list.txt")

    def read_validation(self) -> ImageFiles:
        return self._read("val-list.txt")

    def read_test(self) -> ImageFiles:
        return self._read("val-list.txt")

    def _read(self, name: str) -> ImageFiles:
        root = data_directory(self.data_dir, f"web-{self.subject}")
        folders = (root, root / f"web-{self.subject}")
        folder = next((each for each in folders if (each / name).is_file()), None)
        if folder is None:
            raise FileNotFoundError(
                f"web-{self.subject}: {folders[1] / name} does not exist; fetch the set from "
                f"https://github.com/NUST-Machine-Intelligence-Laboratory/weblyFG-dataset and write lists of lines "
                f"file:label"
            )
        names, label = read_list(folder / name)
        if names and not (folder / names[0]).is_file():
            raise FileNotFoundError(f"web-{self.subject}: {folder / names[0]} does not exist; {folder / name} names it")
        return ImageFiles(folder, names, label, self.crop)


def read_list(file: Path) -> tuple[list[str], Tensor]:
    """Reads lines of a file name and a label with a colon between them.

    Raises:
        ValueError: names the line that is not one.
    """
    names, labels = [], []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        name, colon, label = line.rpartition(":")
        if not colon or not name or not label.strip().isdigit():
            raise ValueError(f"{file}, line {number}: expected file:label, got {line!r}")
        names.append(name)
        labels.append(int(label))
    return names, torch.tensor(labels, dtype=torch.int64)
