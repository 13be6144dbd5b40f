"""Datasets of the user's images: images in one folder per class, images without classes, or images for prediction."""

from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.classification.image_sets import UNKNOWN, ImageFiles, ImageSet, ImageSource, files_of_classes
from datamodules.files.data_directory import Paths, data_directory
from datamodules.files.image_files import (
    Crop,
    chosen_crop,
    class_folders,
    files_by_class,
    image_names,
    images_at,
    required_folder,
)


class ImageFolder(ImageSet):
    """Labelled images in `train/<class>/` and `test/<class>/` of one folder.

    Reads AVIF, BMP, GIF, JPEG, JPEG 2000, PGM, PNG, PPM, TIFF and WebP files. Other files are ignored.

    Classes are numbered in alphabetical order. `num_classes` of the model must equal the number of classes. If there is
    a `test` folder, `val/<class>/` is the validation set, unless `data.split.validation_fraction` holds out training
    images for validation. If there is no `test` folder, `val` is the test set, and label noise never changes its
    labels. If there is neither a `test` nor a `val` folder, set `data.split.test_fraction` to hold out a part of
    `train` for testing.

    To read labels from a table instead of the folder names, set `label_noise` to `FromCSV`. The table identifies images
    by file name relative to `train`, or by index. The index of an image is its position among all training images,
    ordered by class and then by file name. Runs with label noise write file names and indices to `labels.csv`.

    Shifted test sets, such as sketches of the same objects, are also folders with one subfolder per class. If a shifted
    test set has only some of the classes, predictions are restricted to these classes.

    Args:
        data_dir: folder that contains `train`, and usually `test` or `val`.
        image_size: height and width of the input images of the network, in pixels.
        resize: length of the short side of validation and test images after resizing, before the centre crop, in
            pixels. None means `image_size * 256 / 224`.
        min_area: smallest area of a random resized training crop, as a fraction of the area of the image, in (0, 1].
            None means that training images are resized like test images, then cropped at a random position.
        shifted: dictionary that maps the name of each shifted test set, as used in metrics, to its folder in
            `data_dir`. None means no shifted test sets.
        class_names: names of the classes. None means the names of the folders in `train`. If names are given, the
            folder `data_dir` is not needed until images are read.
        data_range: stored value of a white pixel in images of 16 bits or with floating-point values, which then keep
            their depth. None means that images have 8 bits or are reduced to 8 bits.
    """

    class_names: list[str]

    def __init__(
        self,
        data_dir: str,
        image_size: int = 224,
        resize: int | None = None,
        min_area: float | None = 0.08,
        shifted: dict[str, str] | None = None,
        class_names: list[str] | None = None,
        data_range: float | None = None,
    ) -> None:
        self.crop = chosen_crop(image_size, resize, min_area)
        self.crop.data_range = data_range
        if class_names is None:
            self.root = data_directory(data_dir, "ImageFolder")
            class_names = class_folders(self.root / "train")
        elif sorted({*class_names}) != class_names:
            raise ValueError(f"class_names must be sorted, without repetitions, got {class_names}")
        else:
            self.root = Path(data_dir).expanduser()
        self.class_names = class_names
        self.num_classes = len(self.class_names)
        self.image_shape = (3, image_size, image_size)
        self.shifted = shifted or {}

    @property
    def has_test(self) -> bool:
        return any((self.root / name).is_dir() for name in ("test", "val"))

    def training(self) -> ImageFiles:
        for split in ("val", "test"):
            if (self.root / split).is_dir() and (found := set(class_folders(self.root / split))) != {*self.class_names}:
                rank_zero_warn(
                    f"{self.root / split} does not have the same classes as train, so reading it will fail: only one "
                    f"of the two has {', '.join(sorted(found ^ {*self.class_names}))}"
                )
        return self._read("train")

    def validation(self) -> ImageFiles | None:
        splits = (self.root / "val", self.root / "test")
        return self._read("val") if all(split.is_dir() for split in splits) else None

    def test(self) -> ImageFiles:
        splits = ("test", "val")
        found = [name for name in splits if (self.root / name).is_dir()]
        if not found:
            raise FileNotFoundError(
                f"ImageFolder: {self.root} has neither test/<class>/<image> nor val/<class>/<image>; "
                f"set data.split.test_fraction, for example to 0.2, to hold out a part of train for testing"
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
        """List the class folders in `folder`.

        Folders whose name is not that of a training class are rejected.
        """
        found = class_folders(folder)
        if unknown := sorted(set(found) - set(self.class_names)):
            others = ", ".join(unknown)
            raise ValueError(f"{folder} has folders that are not classes of {self.root / 'train'}: {others}")
        return found


class ClassFolders(ImageSet):
    """Images in `<data_dir>/<folder>/{train,val,test}/<class>/`, with a fixed number of classes.

    Unlike `ImageFolder`, this dataset can be configured on machines without the files.

    Args:
        folder: name of the folder.
        num_classes: number of classes that the folder must have.
        data_dir: folder that contains `folder`. None means the NOISEWORKS_DATA directory.
        image_size: height and width of the input images of the network, in pixels.
        resize: length of the short side of validation and test images after resizing, before the centre crop, in
            pixels. None means `image_size * 256 / 224`.
        min_area: smallest area of a random resized training crop, as a fraction of the area of the image, in (0, 1].
            None means that training images are resized like test images, then cropped at a random position.
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
            raise ValueError(
                f"num_classes must be {images.num_classes}, the number of classes in {root}, got {self.num_classes}"
            )
        self.class_names = images.class_names
        return images


class UnlabelledFolder(ImageSet):
    """Images of a folder and its subfolders, in the formats of `ImageFolder`.

    All images have the same dummy label.

    Args:
        data_dir: folder that contains the images.
        image_size: height and width of the input images of the module, in pixels.
        resize: length of the short side after resizing, before the square crop, in pixels. None means `image_size * 256
            / 224`.
        min_area: smallest area of a random resized crop, as a fraction of the area of the image, in (0, 1]. None means
            a square crop at a random position without random resizing, for methods that augment images themselves.
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
    """Face photographs in `<data_dir>/<folder>` and its subfolders, in the layout of CelebA-HQ and FFHQ.

    Images are resized and centre-cropped to squares. All images have the same dummy label.

    Args:
        folder: name of the folder, such as celebahq or ffhq.
        data_dir: folder that contains `folder`. None means the NOISEWORKS_DATA directory.
        image_size: height and width of the input images of the module, in pixels.
        num_test: number of test images. The images whose file names come last are for testing, and all others are for
            training.
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
            raise ValueError(f"num_test must be less than the {len(names)} images in {root}, got {self.num_test}")
        return ImageFiles(root, names[rows], torch.zeros(len(names[rows]), dtype=torch.int64), self.crop)


class NewImages(ImageFiles):
    """Images for prediction, from a folder and its subfolders. They are cropped like the images of a given dataset.

    If a top-level subfolder has the name of a class, its images have the label of this class. An unreadable file is
    recorded and does not stop the run.

    Args:
        folder: folder of images in the formats of `ImageFolder`, one image file, or a list; see `given_files`.
        images: dataset whose crop is applied to the new images. If the images of this dataset are not files, the new
            images are only resized and cropped to the height and width of its images.
    """

    def __init__(self, folder: Paths, images: ImageSet) -> None:
        root, names = images_at(folder, "predict_dir")
        shape = images.image_shape
        if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
            raise ValueError(
                f"predict_dir reads square images in grey or colour, but the images of {type(images).__name__} have "
                f"the shape {list(shape)}"
            )
        number = {name: position for position, name in enumerate(images.class_names or ())}
        label = torch.tensor([number.get(name.split("/")[0], UNKNOWN) for name in names])
        super().__init__(root, names, label, getattr(images, "crop", None) or Crop(shape[1], shape[1]))
        self.grey = shape[0] == 1
        self.unreadable = {}

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        image = super().fetch(row, uniform)
        if not self.grey:
            return image
        weight = torch.tensor([299, 587, 114]).view(1, 3, 1, 1)  # the weights that Pillow uses to convert to grey
        return ((image.long() * weight).sum(dim=1, keepdim=True) + 500).div(1000, rounding_mode="floor").byte()
