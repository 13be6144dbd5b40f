"""DomainNet: 345 classes of objects in six styles, to train on one and test on the others.

Source: Peng et al., Moment Matching for Multi-Source Domain Adaptation, ICCV 2019, arXiv 1812.01754.
"""

from pathlib import Path
from typing import Literal, get_args

import torch

from datamodules.classification.labelled_images import ImageSource
from datamodules.classification.second_view import SecondView
from datamodules.classification.shifted_tests import ShiftedTests
from datamodules.corruptions.label_noise import LabelNoise
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import ImageFiles, chosen_crop

Domain = Literal["clipart", "infograph", "painting", "quickdraw", "real", "sketch"]


class DomainNet(SecondView, ShiftedTests):
    """One domain of DomainNet for training and testing; the other domains' test images are shifted test sets.

    Reads the official lists `<domain>_train.txt` and `<domain>_test.txt`, whose lines are
    `<domain>/<class>/<image>.jpg <label>`, and the images beside them.

    Args:
        data_dir: folder that holds lists and images, itself or in `domain_net` or `DomainNet`; None looks where
            NOISEWORKS_DATA points.
        train_domain: trained on, and tested on its test images.
        test_domains: the shifted test sets; None takes all other domains.
        validation_fraction: part of each training class that is held out of training, in [0, 1).
        image_size: height and width of the images that the network gets, in pixels.
        resize: short side that validation and test images are resized to before their centre is cut out, in pixels.
        min_area: least part of an image's area that a training crop shows, in (0, 1]; None cuts training images as if
            for testing, but at a random place.
        second_view: training batches also hold `second_view`, another random crop of each image.

    Raises:
        FileNotFoundError: if a list or the images are missing.
        ValueError: if a list is damaged or contradicts another one, or an argument is out of range.
    """

    num_classes = 345

    def __init__(
        self,
        data_dir: str | None = None,
        train_domain: Domain = "real",
        test_domains: list[Domain] | None = None,
        batch_size: int = 64,
        label_noise: LabelNoise | None = None,
        validation_fraction: float = 0.0,
        evaluation_batch_size: int | None = None,
        image_size: int = 224,
        resize: int = 256,
        min_area: float | None = 0.8,
        flip: bool = True,
        second_view: bool = False,
        passes_per_epoch: int = 1,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            label_noise,
            validation_fraction,
            evaluation_batch_size,
            flip=flip,
            passes_per_epoch=passes_per_epoch,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            seed=seed,
        )
        others = [domain for domain in get_args(Domain) if domain != train_domain]
        if unknown := [name for name in (train_domain, *(test_domains or ())) if name not in get_args(Domain)]:
            raise ValueError(f"there is no domain {unknown[0]}; DomainNet has {', '.join(get_args(Domain))}")
        if test_domains is not None and (train_domain in test_domains or len(set(test_domains)) < len(test_domains)):
            raise ValueError(
                f"test_domains must be different ones of {', '.join(others)}, got {', '.join(test_domains)}"
            )
        self.second_view = second_view
        self.data_dir = data_dir
        self.train_domain = train_domain
        self.test_domains = others if test_domains is None else test_domains
        self.crop = chosen_crop(image_size, resize, min_area)
        self.image_shape = (3, image_size, image_size)
        self._class_names: dict[int, str] = {}

    def read_training(self) -> ImageFiles:
        return self._read(self.train_domain, "train")

    def read_test(self) -> ImageFiles:
        return self._read(self.train_domain, "test")

    def read_shifted_tests(self) -> dict[str, ImageSource]:
        return {domain: self._read(domain, "test") for domain in self.test_domains}

    def _read(self, domain: str, split: str) -> ImageFiles:
        folder = self._folder(f"{domain}_{split}.txt")
        path = folder / f"{domain}_{split}.txt"
        names, labels = read_list(path)
        for name, label in zip(names, labels, strict=True):
            known = self._class_names.setdefault(label, Path(name).parent.name)
            if known != Path(name).parent.name:
                raise ValueError(f"{path}: {name} has label {label}, which was {known} in what was read before")
        if sorted(self._class_names) == list(range(self.num_classes)):
            self.class_names = [self._class_names[label] for label in range(self.num_classes)]
        if not (folder / names[0]).is_file():
            raise FileNotFoundError(f"DomainNet: {folder / names[0]} does not exist; {path} names it")
        return ImageFiles(folder, names, torch.tensor(labels), self.crop)

    def _folder(self, name: str) -> Path:
        directory = data_directory(self.data_dir, "DomainNet")
        for folder in (directory, directory / "domain_net", directory / "DomainNet"):
            if (folder / name).is_file():
                return folder
        raise FileNotFoundError(
            f"DomainNet: found no {name} in {directory} or its subfolders domain_net or DomainNet; fetch the lists and "
            f"the cleaned version of the images from https://ai.bu.edu/M3SDA/, and extract the images beside the lists"
        )


def read_list(path: Path) -> tuple[list[str], list[int]]:
    """File names and labels of a list with one `<name> <label>` in each line.

    Raises:
        ValueError: names the line that is something else.
    """
    names, labels = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise ValueError(f"{path}, line {number}: expected a file name and a label, got {line!r}")
        names.append(name)
        labels.append(int(label))
    if not names:
        raise ValueError(f"{path} is empty")
    return names, labels
