"""ImageNet (ILSVRC 2012): 1.28 million + 50,000 photographs of 1,000 classes, or of some of them."""

from pathlib import Path

from datamodules.classification.labelled_images import LabelledImages
from datamodules.corruptions.label_noise import LabelNoise
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import ImageFiles, chosen_crop, class_folders, files_by_class


def imagenet_split(directory: Path, split: str) -> Path:
    """The folder of a split of ImageNet, in a folder or its subfolder `imagenet` or `ILSVRC2012`.

    Raises:
        FileNotFoundError: if there is none.
    """
    for folder in ("", "imagenet", "ILSVRC2012"):
        if (found := directory / folder / split).is_dir():
            return found
    raise FileNotFoundError(
        f"ImageNet: found no {split}/<wnid> in {directory} or its subfolder imagenet; extract the ILSVRC 2012 archives "
        f"of https://image-net.org there, with one folder for each class, also of the validation images"
    )


class ImageNet(LabelledImages):
    """ImageNet from the usual folders, `train/<wnid>` and `val/<wnid>`; `val` tests.

    Args:
        data_dir: folder that holds `train` and `val`; None looks where NOISEWORKS_DATA points.
        classes: a number takes so many classes, first in the order of their wnids (50 are those of mini-WebVision); a
            text file with one wnid in each line takes those (ImageNet-100); None takes all 1,000. They are numbered in
            the order of their wnids.
        validation_fraction: part of each training class that is held out of training, in [0, 1). Its labels are as
            noisy.
        image_size: height and width of the images that the network gets, in pixels.
        resize: short side that validation and test images are resized to before their centre is cut out, in pixels.
        min_area: least part of an image's area that a training crop shows, in (0, 1]; None cuts training images as if
            for testing, but at a random place.

    Raises:
        FileNotFoundError: if a folder is missing or empty.
        ValueError: if an argument is out of range or does not fit the folders.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        classes: int | str | None = None,
        batch_size: int = 256,
        label_noise: LabelNoise | None = None,
        validation_fraction: float = 0.0,
        evaluation_batch_size: int | None = None,
        image_size: int = 224,
        resize: int = 256,
        min_area: float | None = 0.08,
        flip: bool = True,
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
                raise ValueError(f"classes must be in 1...1000 or a file that lists them, got {classes}")

    def read_training(self) -> ImageFiles:
        return self._read("train")

    def read_test(self) -> ImageFiles:
        return self._read("val")

    def _read(self, split: str) -> ImageFiles:
        folder = imagenet_split(data_directory(self.data_dir, "ImageNet"), split)
        if self.class_names is None:
            self.class_names = self._first_classes(folder)
        return ImageFiles(folder, *files_by_class(folder, self.class_names), self.crop)

    def _first_classes(self, folder: Path) -> list[str]:
        found = class_folders(folder)
        if len(found) < self.num_classes or (self.classes is None and len(found) > self.num_classes):
            raise ValueError(
                f"ImageNet: {folder} holds {len(found)} folders, one for each class, and data.classes {self.classes} "
                f"needs {self.num_classes}"
            )
        return found[: self.num_classes]


def listed_classes(file: Path) -> list[str]:
    """Reads a list of wnids, the first word of each line; sorted.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a wnid occurs twice, or there is none.
    """
    if not file.is_file():
        raise FileNotFoundError(f"classes: {file} does not exist; expected a text file with one wnid in each line")
    found = sorted(line.split()[0] for line in file.read_text().splitlines() if line.strip())
    if not found:
        raise ValueError(f"classes: {file} lists no wnid")
    if repeated := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(f"classes: {file} lists {repeated[0]} more than once")
    return found
