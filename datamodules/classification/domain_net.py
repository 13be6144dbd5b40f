"""DomainNet: 345 object classes in six styles, for training on one style and testing on all other styles.

Source: Peng et al., Moment Matching for Multi-Source Domain Adaptation, ICCV 2019, arXiv 1812.01754.
"""

from pathlib import Path
from typing import Literal, get_args

from datamodules.classification.image_sets import ImageFiles, ImageSet, ImageSource, listed_files
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import chosen_crop

Domain = Literal["clipart", "infograph", "painting", "quickdraw", "real", "sketch"]


class DomainNet(ImageSet):
    """DomainNet with one domain for training and testing.

    The test images of all other domains are shifted test sets.

    The official lists `<domain>_train.txt` and `<domain>_test.txt` are read; their lines have the form
    `<domain>/<class>/<image>.jpg <label>`. The folder of the lists must also contain the images.

    Args:
        data_dir: folder that contains lists and images, directly or in a subfolder `domain_net` or `DomainNet`. None
            means the NOISEWORKS_DATA directory.
        train_domain: domain for training and in-distribution testing.
        test_domains: domains of the shifted test sets. None means all domains except `train_domain`.
        image_size: height and width of the input images of the network, in pixels.
        resize: length, in pixels, to which the short side of a validation or test image is resized before the centre
            crop. None means `image_size * 256 / 224`.
        min_area: smallest area of a random resized training crop, as a fraction of the area of the image, in (0, 1].
            None means that training images are resized like test images, then cropped at a random position.
    """

    num_classes = 345

    def __init__(
        self,
        data_dir: str | None = None,
        train_domain: Domain = "real",
        test_domains: list[Domain] | None = None,
        image_size: int = 224,
        resize: int | None = None,
        min_area: float | None = 0.8,
    ) -> None:
        others = [domain for domain in get_args(Domain) if domain != train_domain]
        if unknown := [name for name in (train_domain, *(test_domains or ())) if name not in get_args(Domain)]:
            raise ValueError(f"unknown domain {unknown[0]}; DomainNet has {', '.join(get_args(Domain))}")
        if test_domains is not None and (train_domain in test_domains or len(set(test_domains)) < len(test_domains)):
            raise ValueError(
                f"test_domains must be distinct domains out of {', '.join(others)}, got {', '.join(test_domains)}"
            )
        self.data_dir = data_dir
        self.train_domain = train_domain
        self.test_domains = others if test_domains is None else test_domains
        self.crop = chosen_crop(image_size, resize, min_area)
        self.image_shape = (3, image_size, image_size)
        self._class_names: dict[int, str] = {}

    def training(self) -> ImageFiles:
        return self._read(self.train_domain, "train")

    def test(self) -> ImageFiles:
        return self._read(self.train_domain, "test")

    def ood_test_sets(self) -> dict[str, ImageSource]:
        return {domain: self._read(domain, "test") for domain in self.test_domains}

    def _read(self, domain: str, split: str) -> ImageFiles:
        folder = self._folder(f"{domain}_{split}.txt")
        path = folder / f"{domain}_{split}.txt"
        source = listed_files(path, folder, self.crop, "DomainNet", self.num_classes)
        for name, label in zip(source.names, source.label.tolist(), strict=True):
            known = self._class_names.setdefault(label, Path(name).parent.name)
            if known != Path(name).parent.name:
                raise ValueError(f"{path}: {name} has label {label}, which other files give to the class {known}")
        if sorted(self._class_names) == list(range(self.num_classes)):
            self.class_names = [self._class_names[label] for label in range(self.num_classes)]
        return source

    def _folder(self, name: str) -> Path:
        directory = data_directory(self.data_dir, "DomainNet")
        for folder in (directory, directory / "domain_net", directory / "DomainNet"):
            if (folder / name).is_file():
                return folder
        raise FileNotFoundError(
            f"DomainNet: found no {name} in {directory} or its subfolders domain_net or DomainNet; download the lists "
            f"and the cleaned images from https://ai.bu.edu/M3SDA/, and extract the images next to the lists"
        )
