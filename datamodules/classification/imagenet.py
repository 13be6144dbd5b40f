"""ImageNet (ILSVRC 2012): 1.28 million training and 50,000 test photographs of up to 1,000 classes."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from datamodules.arguments import within
from datamodules.classification.image_sets import (
    UNKNOWN,
    ImageFiles,
    ImageSet,
    ImagesInMemory,
    ImageSource,
    OtherImages,
    files_of_classes,
)
from datamodules.files.array_files import read_npz
from datamodules.files.array_pickle import read_pickled_arrays
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, chosen_crop, class_folders, files_by_class
from datamodules.files.limits import to_int64
from datamodules.files.text_files import read_text

NUM_FILES = 10
"""Number of training files of ImageNet32."""


def imagenet_split(directory: Path, split: str) -> Path:
    """Find the folder of an ImageNet split. It is in a directory, or in its subfolder `imagenet` or `ILSVRC2012`."""
    for folder in ("", "imagenet", "ILSVRC2012"):
        if (found := directory / folder / split).is_dir():
            return found
    raise FileNotFoundError(
        f"ImageNet: found no {split}/<wnid> in {directory} or its subfolder imagenet; extract the ILSVRC 2012 archives "
        f"of https://image-net.org there, with one folder for each class, for the validation images too"
    )


class ImageNet(ImageSet):
    """ImageNet from the usual folders, `train/<wnid>` for training and `val/<wnid>` for testing.

    A shifted test set is a folder with one subfolder per class. The name of a subfolder can be a WordNet ID (wnid), as
    in ImageNet-R, -A and -Sketch, or a class number in the order of the 1,000 wnids, as in ImageNet-V2. `class_maps`
    translates all other names, as in ObjectNet. Subfolders of classes that `classes` excludes are ignored. If a shifted
    test set contains only some of the classes, predictions for it are restricted to these classes.

    Source: Recht et al., ICML 2019 (V2); Hendrycks et al., ICCV 2021 (R) and CVPR 2021 (A); Wang et al., NeurIPS 2019
    (Sketch); Barbu et al., NeurIPS 2019 (ObjectNet).

    Args:
        data_dir: folder that contains `train` and `val`. None means the NOISEWORKS_DATA directory.
        classes: classes to keep. A number n keeps the first n classes in the order of their wnids, such as 50 for
            mini-WebVision. The path of a text file with one wnid per line keeps the listed classes, such as those of
            ImageNet-100. None keeps all 1,000. Classes are numbered in wnid order.
        image_size: height and width of the input images of the network, in pixels.
        resize: length of the short side of validation and test images after resizing, before the centre crop, in
            pixels. None means `image_size * 256 / 224`.
        min_area: smallest area of a random resized training crop, as a fraction of the area of the image, in (0, 1].
            None means that training images are resized like test images, then cropped at a random position.
        shifted: dictionary that maps the name of each shifted test set, as used in metrics, to its folder relative to
            `data_dir`. None means no shifted test sets.
        class_maps: dictionary that maps the name of a shifted test set to a text file in `data_dir`, whose lines are
            `<wnid> <folder>`. Subfolders of the shifted test set that the file does not list are ignored.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        classes: int | str | None = None,
        image_size: int = 224,
        resize: int | None = None,
        min_area: float | None = 0.08,
        shifted: dict[str, str] | None = None,
        class_maps: dict[str, str] | None = None,
    ) -> None:
        self.shifted, self.class_maps = shifted or {}, class_maps or {}
        if unknown := sorted(set(self.class_maps) - set(self.shifted)):
            raise ValueError(f"class_maps has the key {unknown[0]}, but shifted only has {', '.join(self.shifted)}")
        self.crop = chosen_crop(image_size, resize, min_area)
        self.image_shape = (3, image_size, image_size)
        self.data_dir = data_dir
        self.classes = classes
        if isinstance(classes, str):
            self.class_names = listed_classes(Path(classes).expanduser())
            self.num_classes = len(self.class_names)
        else:
            self.num_classes = 1000 if classes is None else classes
            if not 1 <= self.num_classes <= 1000:
                raise ValueError(
                    f"classes must be a number in 1...1000, or the path of a file that lists classes; got {classes}"
                )

    def training(self) -> ImageFiles:
        return self._read("train")

    def test(self) -> ImageFiles:
        return self._read("val")

    def ood_test_sets(self) -> dict[str, ImageSource]:
        if self.class_names is None:
            self.test()
        assert self.class_names is not None
        root = data_directory(self.data_dir, "ImageNet")
        found: dict[str, ImageSource] = {}
        for name, folder in self.shifted.items():
            translation = read_class_map(root / self.class_maps[name]) if name in self.class_maps else None
            found[name] = _shifted_set(root / folder, self.class_names, translation, self.crop)
        return found

    def _read(self, split: str) -> ImageFiles:
        folder = imagenet_split(data_directory(self.data_dir, "ImageNet"), split)
        if self.class_names is None:
            self.class_names = self._first_classes(folder)
        return ImageFiles(folder, *files_by_class(folder, self.class_names), self.crop)

    def _first_classes(self, folder: Path) -> list[str]:
        found = class_folders(folder)
        if len(found) < self.num_classes or (self.classes is None and len(found) > self.num_classes):
            raise ValueError(
                f"ImageNet: {folder} has {len(found)} class folders, but classes {self.classes} needs "
                f"{self.num_classes}"
            )
        return found[: self.num_classes]


def listed_classes(file: Path) -> list[str]:
    """Read the wnids from a list of classes, and return them in sorted order.

    The first word of each line is a wnid.
    """
    if not file.is_file():
        raise FileNotFoundError(f"classes: {file} does not exist; expected a text file with one wnid in each line")
    found = sorted(line.split()[0] for line in read_text(file).splitlines() if line.strip())
    if not found:
        raise ValueError(f"classes: {file} lists no wnid")
    if repeated := [name for name, after in pairwise(found) if name == after]:
        raise ValueError(f"classes: {file} lists {repeated[0]} more than once")
    return found


def _shifted_set(split: Path, wnids: Sequence[str], translation: dict[str, str] | None, crop: Crop) -> ImageFiles:
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    folders = class_folders(split)
    if translation is not None:
        pairs = [(folder, translation[folder]) for folder in folders if folder in translation]
    elif all(folder.isdecimal() for folder in folders):
        if len(wnids) != 1000:
            raise ValueError(
                f"{split} has numbered folders, which require all 1,000 classes, but classes selects {len(wnids)}"
            )
        if above := [folder for folder in folders if int(folder) >= 1000]:
            raise ValueError(f"{split} holds a folder {above[0]}, but classes are numbered 0...999")
        pairs = [(folder, wnids[int(folder)]) for folder in folders]
    else:
        if odd := [folder for folder in folders if not _is_wnid(folder)]:
            raise ValueError(f"{split} holds a folder {odd[0]}, which is not a wnid; map its folders in class_maps")
        pairs = [(folder, folder) for folder in folders]
    kept = [(folder, label_of[wnid]) for folder, wnid in pairs if wnid in label_of]
    if not kept:
        raise ValueError(f"{split} holds none of the {len(wnids)} classes")
    return files_of_classes(split, kept, len(wnids), crop)


def _is_wnid(name: str) -> bool:
    return name[0] == "n" and name[1:].isdecimal()


def read_class_map(path: Path) -> dict[str, str]:
    """Read the wnid of each folder from a file with lines `<wnid> <folder>`."""
    if not path.is_file():
        raise FileNotFoundError(f"class_maps: {path} does not exist; expected lines `<wnid> <folder>`")
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        wnid, _, folder = line.strip().partition(" ")
        if not folder.strip() or not _is_wnid(wnid) or folder.strip() in found:
            raise ValueError(f"{path}, line {number}: expected a wnid and a folder not yet listed, got {line!r}")
        found[folder.strip()] = wnid
    return found


def read_labelled_batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the images, `[N, 3, 32, 32]`, uint8, and the labels, `[N]`, of a file of ImageNet32.

    Args:
        file: pickled dictionary or `.npz` file with `data`, `[N, 3072]`, uint8, and optionally `labels`. If there are
            no `labels`, the returned labels are empty. A row of `data` contains all red values of an image, then all
            green values, then all blue values.
    """
    try:
        if file.suffix == ".npz":
            arrays = read_npz(file, ("data",), ("labels",))
            data, labels = arrays["data"], arrays.get("labels", ())
        else:
            found = read_pickled_arrays(file)
            data, labels = np.asarray(found["data"]), found.get("labels", ())
    except (OSError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is damaged or not a batch of ImageNet32 ({error}); fetch it again") from error
    if data.ndim != 2 or data.shape[1] != 3072 or data.dtype != np.uint8:
        raise ValueError(f"{file}: data must be [N, 3072] of uint8, got {list(data.shape)} of {data.dtype}")
    return data.reshape(-1, 3, 32, 32), np.asarray(labels)


def read_batch(file: Path) -> np.ndarray:
    """Read the images, `[N, 3, 32, 32]`, uint8, of a file of ImageNet32.

    See `read_labelled_batch`.
    """
    return read_labelled_batch(file)[0]


class ImageNet32(OtherImages):
    """ImageNet at 32 x 32 pixels, as out-of-distribution images for a different dataset.

    The files are `train_data_batch_1` to `train_data_batch_10`, as distributed, either pickles or `.npz`.

    Source: Chrabaszcz, Loshchilov and Hutter, A Downsampled Variant of ImageNet as an Alternative to the CIFAR
    datasets, 2017, arXiv 1707.08819.

    Args:
        data_dir: folder that contains the files, directly or in a subfolder `imagenet32`. None means the
            NOISEWORKS_DATA directory.
        num_files: number of files to read, in 1...10. All ten files take 4 GB.
    """

    def __init__(self, data_dir: str | None = None, num_files: int = NUM_FILES) -> None:
        within(1, NUM_FILES, num_files=num_files)
        self.data_dir = data_dir
        self.num_files = num_files

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImagesInMemory:
        if tuple(image_shape) != (3, 32, 32):
            raise ValueError(f"ImageNet32 has images [3, 32, 32], but in-distribution images are {list(image_shape)}")
        root = data_directory(self.data_dir, "ImageNet32")
        image = np.concatenate([read_batch(self._file(root, number)) for number in range(1, self.num_files + 1)])
        return ImagesInMemory(torch.from_numpy(image), torch.full((len(image),), UNKNOWN))

    @staticmethod
    def _file(root: Path, number: int) -> Path:
        return batch_file(root, f"train_data_batch_{number}")


def batch_file(root: Path, name: str) -> Path:
    """Find a file of ImageNet32, a pickle or an `.npz` file, in the folder `root` or its subfolder `imagenet32`."""
    for folder in (root, root / "imagenet32"):
        for file in (folder / name, folder / f"{name}.npz"):
            if file.is_file():
                return file
    raise FileNotFoundError(
        f"ImageNet32: {root / name} does not exist (neither does {name}.npz, nor the same files in imagenet32); fetch "
        "Imagenet32_train and Imagenet32_val from https://image-net.org/download-images and set data_dir to their "
        "folder"
    )


class LabelledImageNet32(ImageSet):
    """Downsampled ImageNet: `train_data_batch_1` to `_10` for training, `val_data` for testing; pickles or `.npz`.

    Source: Chrabaszcz, Loshchilov and Hutter, A Downsampled Variant of ImageNet as an Alternative to the CIFAR
    datasets, 2017, arXiv 1707.08819.

    Args:
        data_dir: folder that contains the files, directly or in a subfolder `imagenet32`. None means the
            NOISEWORKS_DATA directory.
        num_files: number of training files to read, in 1...10. All ten files need 4 GB of memory.
    """

    num_classes = 1000
    image_shape = (3, 32, 32)

    def __init__(self, data_dir: str | None = None, num_files: int = NUM_FILES) -> None:
        within(1, NUM_FILES, num_files=num_files)
        self.data_dir = data_dir
        self.num_files = num_files

    def training(self) -> ImagesInMemory:
        return self._read([f"train_data_batch_{number}" for number in range(1, self.num_files + 1)])

    def test(self) -> ImagesInMemory:
        return self._read(["val_data"])

    def _read(self, names: list[str]) -> ImagesInMemory:
        root = data_directory(self.data_dir, "ImageNet32")
        files = [batch_file(root, name) for name in names]  # find all files before reading any
        image, label = zip(*(_labelled_from_nought(file) for file in files), strict=True)
        return ImagesInMemory(torch.from_numpy(np.concatenate(image)), torch.from_numpy(np.concatenate(label)))


def _labelled_from_nought(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels.

    The labels start at 1 in the files and at 0 in the result.
    """
    image, label = read_labelled_batch(file)
    if label.shape != image.shape[:1] or label.dtype.kind not in "iuf" or not ((label >= 1) & (label <= 1000)).all():
        raise ValueError(f"{file}: labels must be {len(image)} numbers in 1...1000; fetch it again")
    return image, to_int64(label, 1, 1000, file, "label") - 1
