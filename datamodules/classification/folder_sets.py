"""A user's own images: a folder for each class, a folder without classes, and new ones to predict."""

from pathlib import Path

import torch
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.classification.image_sets import UNKNOWN, ImageFiles, ImageSet, ImageSource, files_of_classes
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import (
    Crop,
    chosen_crop,
    class_folders,
    files_by_class,
    image_names,
    required_folder,
)


class ImageFolder(ImageSet):
    """Images in `train/<class>/` and `test/<class>/` of a folder: AVIF, BMP, GIF, JPEG, JPEG 2000, PGM, PNG, PPM, TIFF
    and WebP. Files of other formats are left out.

    Classes are numbered in the order of their names, and so is `num_classes`, which the model must match.
    `val/<class>/` validates where there is `test` too and no image is held out (`data.validation_fraction`), and tests
    where there is no `test`; its labels stay as they are. Without both, `data.test_fraction` tests on a part of
    `train`.

    Labels that were found elsewhere come in by `label_noise` of class `FromCSV`. It goes by the files' names relative
    to `train`, or by an index, the position among all training images, class by class and sorted by file name; the
    `labels.csv` of a run with any label noise lists both.

    Test sets of other distributions, such as sketches of the same things, are folders with a folder for each class too.
    Of a set that has only some of the classes, predictions are among these.

    Args:
        data_dir: folder that holds `train`, and mostly `test` or `val`.
        image_size: height and width of the images that the network gets, in pixels.
        resize: short side that validation and test images are resized to before their centre is cut out, in pixels;
            None takes 256/224 of `image_size`.
        min_area: least part of an image's area that a training crop shows, in (0, 1]; None cuts training images as if
            for testing, but at a random place.
        shifted: folder that holds `<class>/`, of each shifted test set by the name that metrics give it, relative to
            `data_dir`; None has no such sets.

    Raises:
        FileNotFoundError: if a folder is missing or empty.
        ValueError: if an argument is out of range, or a folder belongs to no class.
    """

    class_names: list[str]

    def __init__(
        self,
        data_dir: str,
        image_size: int = 224,
        resize: int | None = None,
        min_area: float | None = 0.08,
        shifted: dict[str, str] | None = None,
    ) -> None:
        self.crop = chosen_crop(image_size, resize, min_area)
        self.root = data_directory(data_dir, "ImageFolder")
        self.class_names = class_folders(self.root / "train")
        self.num_classes = len(self.class_names)
        self.image_shape = (3, image_size, image_size)
        self.shifted = shifted or {}

    @property
    def has_test(self) -> bool:
        return any((self.root / name).is_dir() for name in ("test", "val"))

    def training(self) -> ImageFiles:
        return self._read("train")

    def validation(self) -> ImageFiles | None:
        splits = (self.root / "val", self.root / "test")
        return self._read("val") if all(split.is_dir() for split in splits) else None

    def test(self) -> ImageFiles:
        splits = ("test", "val")
        found = [name for name in splits if (self.root / name).is_dir()]
        if not found:
            raise FileNotFoundError(
                f"ImageFolder: {self.root} holds neither test/<class>/<image> nor val/<class>/<image>; "
                f"data.test_fraction 0.2 tests on a share of train that is not trained on"
            )
        return self._read(found[0])

    def ood_test_sets(self) -> dict[str, ImageSource]:
        return {name: self._shifted_set(self.root / folder) for name, folder in self.shifted.items()}

    def _shifted_set(self, folder: Path) -> ImageSource:
        label = {name: number for number, name in enumerate(self.class_names)}
        return files_of_classes(
            folder, [(name, label[name]) for name in self._checked_classes(folder)], len(label), self.crop
        )

    def _read(self, split: str) -> ImageFiles:
        folder = self.root / split
        self._checked_classes(folder)
        return ImageFiles(folder, *files_by_class(folder, self.class_names), self.crop)

    def _checked_classes(self, folder: Path) -> list[str]:
        """The classes in a folder, which are those of the training images or some of them."""
        found = class_folders(folder)
        if unknown := sorted(set(found) - set(self.class_names)):
            raise ValueError(f"{folder} holds folders that are no class of {self.root / 'train'}: {', '.join(unknown)}")
        return found


class ClassFolders(ImageSet):
    """Images in `<data_dir>/<folder>/train/<class>/`, and `test` or `val` beside it, of a known number of classes.

    It is an `ImageFolder` whose configuration can be read where the files are not.

    Args:
        folder: name of the folder.
        num_classes: classes, which the folder must have.
        data_dir: folder that holds it; None looks where NOISEWORKS_DATA points.
        image_size: height and width of the images that the network gets, in pixels.
        resize: short side that validation and test images are resized to before their centre is cut out, in pixels;
            None takes 256/224 of `image_size`.
        min_area: least part of an image's area that a training crop shows, in (0, 1]; None cuts training images as if
            for testing, but at a random place.

    Raises:
        FileNotFoundError: if a folder is missing or empty.
        ValueError: if an argument is out of range, or the folder has another number of classes.
    """

    def __init__(
        self,
        folder: str,
        num_classes: int,
        data_dir: str | None = None,
        image_size: int = 224,
        resize: int | None = None,
        min_area: float | None = 0.08,
    ) -> None:
        at_least(1, num_classes=num_classes)
        self.crop = chosen_crop(image_size, resize, min_area)
        self.folder = folder
        self.num_classes = num_classes
        self.data_dir = data_dir
        self.sizes = image_size, resize, min_area
        self.image_shape = (3, image_size, image_size)

    @property
    def has_test(self) -> bool:
        return self._images().has_test

    def training(self) -> ImageFiles:
        return self._images().training()

    def validation(self) -> ImageFiles | None:
        return self._images().validation()

    def test(self) -> ImageFiles:
        return self._images().test()

    def _images(self) -> ImageFolder:
        root = data_directory(self.data_dir, "ClassFolders") / self.folder
        images = ImageFolder(str(root), *self.sizes)
        if images.num_classes != self.num_classes:
            raise ValueError(f"num_classes must be {images.num_classes}, the classes in {root}, got {self.num_classes}")
        self.class_names = images.class_names
        return images


class UnlabelledFolder(ImageSet):
    """The images of a folder and its subfolders, in the formats of `ImageFolder`, all of one class that says nothing.

    Args:
        data_dir: folder that holds the images.
        image_size: height and width of the images that the module gets, in pixels.
        resize: short side that images are resized to before a square is cut out, in pixels; None takes 256/224 of
            `image_size`.
        min_area: least part of an image's area that a training crop shows, in (0, 1]; None cuts a square at a random
            place, as methods need that draw their own views.

    Raises:
        FileNotFoundError: if the folder is missing or holds no image.
        ValueError: if an argument is out of range.
    """

    num_classes = 1

    def __init__(
        self, data_dir: str, image_size: int = 224, resize: int | None = None, min_area: float | None = None
    ) -> None:
        self.crop = chosen_crop(image_size, resize, min_area)
        self.root: Path = data_directory(data_dir, "UnlabelledFolder")
        required_folder(self.root, "data_dir")
        self.image_shape = (3, image_size, image_size)

    def training(self) -> ImageFiles:
        names = image_names(self.root)
        return ImageFiles(self.root, names, torch.zeros(len(names), dtype=torch.int64), self.crop)

    def test(self) -> ImageFiles:
        return self.training()


class Faces(ImageSet):
    """Photographs of faces in `<data_dir>/<folder>`, in any subfolders, as CelebA-HQ and FFHQ come; the last ones test.

    Images are resized, and cut at their centre where they are not square; all are of one class that says nothing.

    Args:
        folder: name of the folder, such as celebahq or ffhq.
        data_dir: folder that holds it; None looks where NOISEWORKS_DATA points.
        image_size: height and width of the images that the module gets, in pixels.
        num_test: images that test, the last by name; they are not trained on.

    Raises:
        FileNotFoundError: if the folder is missing or holds no image.
        ValueError: if there are no more images than `num_test`.
    """

    num_classes = 1

    def __init__(self, folder: str, data_dir: str | None = None, image_size: int = 256, num_test: int = 1000) -> None:
        at_least(1, num_test=num_test)
        self.folder = folder
        self.data_dir = data_dir
        self.num_test = num_test
        self.crop = chosen_crop(image_size, image_size, None)
        self.image_shape = (3, image_size, image_size)

    def training(self) -> ImageFiles:
        return self._read(slice(None, -self.num_test))

    def test(self) -> ImageFiles:
        return self._read(slice(-self.num_test, None))

    def _read(self, rows: slice) -> ImageFiles:
        root = data_directory(self.data_dir, "Faces") / self.folder
        required_folder(root, "data_dir")
        names = image_names(root)
        if len(names) <= self.num_test:
            raise ValueError(f"num_test must be below the {len(names)} images in {root}, got {self.num_test}")
        return ImageFiles(root, names[rows], torch.zeros(len(names[rows]), dtype=torch.int64), self.crop)


class NewImages(ImageFiles):
    """The images of a folder and its subfolders, cut out as those of a data set; the classes are known where folders
    have the classes' names. Files that are damaged are noted and do not end a run.

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
        self.unreadable = {}

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        image = super().fetch(row, uniform)
        if not self.grey:
            return image
        weight = torch.tensor([299, 587, 114]).view(1, 3, 1, 1)  # as Pillow's conversion to grey
        return ((image.long() * weight).sum(dim=1, keepdim=True) + 500).div(1000, rounding_mode="floor").byte()
