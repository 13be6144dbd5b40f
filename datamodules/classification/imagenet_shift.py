"""ImageNet with the test sets that were collected for it later: ImageNet-V2, -R, -A, -Sketch, ObjectNet.

Source: Recht et al., ICML 2019 (V2); Hendrycks et al., ICCV 2021 (R) and CVPR 2021 (A); Wang et al., NeurIPS 2019
(Sketch); Barbu et al., NeurIPS 2019 (ObjectNet).
"""

from pathlib import Path

from datamodules.classification.imagenet import ImageNet
from datamodules.classification.labelled_images import ImageSource
from datamodules.classification.shifted_tests import ShiftedTests, SomeClasses, files_of_classes
from datamodules.corruptions.label_noise import LabelNoise
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, class_folders


class ImageNetShift(ShiftedTests, ImageNet):
    """ImageNet, and shifted test sets in folders of their own, one folder for each class in them.

    A folder of a class is called by its wnid (ImageNet-R, -A, -Sketch), by the number of its class in the order of the
    1,000 wnids (ImageNet-V2), or by a name of its own that `class_maps` translates (ObjectNet). Folders of classes that
    `classes` leaves out are left out. A set that has only some of the classes says so, and predictions are then among
    them.

    Args:
        data_dir: folder that holds `train` and `val`; None looks where NOISEWORKS_DATA points.
        shifted: folder of each set by the name that metrics give it, relative to `data_dir`.
        class_maps: for sets whose folders have names of their own, by the set's name: a text file, relative to
            `data_dir`, whose lines are `<wnid> <folder>`; folders that it does not list are left out.
        classes: as for `ImageNet`.
        validation_fraction: part of each training class that is held out of training, in [0, 1). Its labels are as
            noisy.
        image_size: height and width of the images that the network gets, in pixels.
        resize: short side that validation and test images are resized to before their centre is cut out, in pixels.
        min_area: least part of an image's area that a training crop shows, in (0, 1]; None cuts training images as if
            for testing, but at a random place.

    Raises:
        FileNotFoundError: if a folder or a map is missing.
        ValueError: if a folder belongs to no class, or an argument is out of range.
    """

    def __init__(
        self,
        shifted: dict[str, str],
        class_maps: dict[str, str] | None = None,
        data_dir: str | None = None,
        classes: int | str | None = None,
        batch_size: int = 256,
        label_noise: LabelNoise | None = None,
        validation_fraction: float = 0.0,
        evaluation_batch_size: int | None = None,
        image_size: int = 224,
        resize: int = 256,
        min_area: float | None = 0.8,
        flip: bool = True,
        passes_per_epoch: int = 1,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            data_dir,
            classes,
            batch_size,
            label_noise,
            validation_fraction,
            evaluation_batch_size,
            image_size,
            resize,
            min_area,
            flip,
            passes_per_epoch,
            num_workers,
            prefetch_factor,
            seed,
        )
        if unknown := sorted(set(class_maps or {}) - set(shifted)):
            raise ValueError(f"class_maps names {unknown[0]}, and shifted has {', '.join(shifted)}")
        self.shifted = shifted
        self.class_maps = class_maps or {}

    def read_shifted_tests(self) -> dict[str, ImageSource]:
        if self.class_names is None:
            self.read_test()
        assert self.class_names is not None
        root = data_directory(self.data_dir, "ImageNet")
        return {
            name: _shifted_set(root / folder, self.class_names, self._translation(root, name), self.crop)
            for name, folder in self.shifted.items()
        }

    def _translation(self, root: Path, name: str) -> dict[str, str] | None:
        return read_class_map(root / self.class_maps[name]) if name in self.class_maps else None


def _shifted_set(split: Path, wnids: list[str], translation: dict[str, str] | None, crop: Crop) -> SomeClasses:
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    folders = class_folders(split)
    if translation is not None:
        pairs = [(folder, translation[folder]) for folder in folders if folder in translation]
    elif all(folder.isdecimal() for folder in folders):
        if len(wnids) != 1000:
            raise ValueError(f"{split} numbers its folders among 1,000 classes, and data.classes leaves {len(wnids)}")
        if above := [folder for folder in folders if int(folder) >= 1000]:
            raise ValueError(f"{split} holds a folder {above[0]}, and classes are numbered 0...999")
        pairs = [(folder, wnids[int(folder)]) for folder in folders]
    else:
        if odd := [folder for folder in folders if not _is_wnid(folder)]:
            raise ValueError(
                f"{split} holds a folder {odd[0]}, which is no wnid; give the set a map in data.class_maps"
            )
        pairs = [(folder, folder) for folder in folders]
    kept = [(folder, label_of[wnid]) for folder, wnid in pairs if wnid in label_of]
    if not kept:
        raise ValueError(f"{split} holds none of the {len(wnids)} classes")
    return files_of_classes(split, kept, len(wnids), crop)


def _is_wnid(name: str) -> bool:
    return name[0] == "n" and name[1:].isdecimal()


def read_class_map(path: Path) -> dict[str, str]:
    """Folder -> wnid, from lines `<wnid> <folder>`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: names the line that is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"class_maps: {path} does not exist; expected lines `<wnid> <folder>`")
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        wnid, _, folder = line.strip().partition(" ")
        if not folder.strip() or not _is_wnid(wnid) or folder.strip() in found:
            raise ValueError(f"{path}, line {number}: expected a wnid and a folder that is listed once, got {line!r}")
        found[folder.strip()] = wnid
    return found
