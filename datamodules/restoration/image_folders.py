"""Folders of images: clean ones that get their noise here, noisy ones, pairs of both, and the sets of the field."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.arguments import at_least
from datamodules.files.data_directory import data_directory
from datamodules.files.file_pairs import paired, stem_of
from datamodules.files.image_files import SUFFIXES, image_names
from datamodules.files.pixels import read_pixels
from datamodules.restoration.images import Images, PairSet, Pixels, Split


def read_images(folder: Path, names: Sequence[str], channels: int, data_range: int | None = None) -> list[np.ndarray]:
    """Read images of a folder, `[C, H, W]` each; sizes may differ.

    Raises:
        UnreadableImage: names the first file that cannot be read.
    """
    return [read_pixels(folder / name, channels, data_range) for name in names]


def image_files(folder: Path, what: str) -> list[str]:
    """List the images of a folder and its subfolders, which is not empty.

    Args:
        folder: the folder.
        what: the argument or the set, for messages.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{what}: {folder} is not a folder; expected one with images")
    if not (names := image_names(folder)):
        raise FileNotFoundError(f"{what}: {folder} holds no image; expected files that end with {', '.join(SUFFIXES)}")
    return names


class PairFolders(PairSet):
    """Your own images: noisy ones, clean ones, or both in two folders with the same names.

    Clean images alone get their noise from `data.noise`. Noisy images alone are for methods that need no clean ones.

    Args:
        clean_dir: folder of clean images, with any subfolders.
        noisy_dir: folder of noisy images.
        colour: whether images are read in colour; otherwise in grey, as luma of Rec. 601.
        data_range: the stored value of white, which images of 16 bits need; those of 8 bits have 255.

    Raises:
        ValueError: if neither folder is given, or their names or sizes do not match.
        FileNotFoundError: if a folder does not exist or holds no image.
    """

    def __init__(
        self,
        clean_dir: str | None = None,
        noisy_dir: str | None = None,
        colour: bool = True,
        data_range: int | None = None,
    ) -> None:
        if clean_dir is None and noisy_dir is None:
            raise ValueError("PairFolders needs clean_dir, noisy_dir or both")
        self.clean_dir = clean_dir
        self.noisy_dir = noisy_dir
        self.channels = 3 if colour else 1
        self.data_range = data_range

    def images(self, split: Split) -> Images:
        names: list[str] = []
        read: dict[str, list[np.ndarray] | None] = {"clean": None, "noisy": None}
        folders = {"clean": self.clean_dir, "noisy": self.noisy_dir}
        files = {kind: image_files(Path(given).expanduser(), f"{kind}_dir") for kind, given in folders.items() if given}
        if len(files) == 2:
            pairs = paired(files["noisy"], files["clean"], Path(str(self.noisy_dir)))
            files = {"noisy": [noisy for noisy, _ in pairs], "clean": [clean for _, clean in pairs]}
        for kind, names in files.items():
            read[kind] = read_images(Path(str(folders[kind])).expanduser(), names, self.channels, self.data_range)
        return Images([stem_of(name) for name in names], read["clean"], read["noisy"], self.data_range or 255)


class Together(PairSet):
    """Several sets as one, such as DIV2K and BSD400 to train on.

    Args:
        sets: the sets: all with clean images, or all with noisy ones, and with the same number of channels.

    Raises:
        ValueError: if there is none, or they differ in their channels, in what they have or in white's stored value.
    """

    def __init__(self, sets: list[PairSet]) -> None:
        if len(channels := {one.channels for one in sets}) != 1:
            raise ValueError(f"Together needs sets with the same number of channels, got {sorted(channels)}")
        if len(scales := {one.scale for one in sets}) != 1:
            raise ValueError(f"Together needs sets whose small images have the same factor, got {sorted(scales)}")
        self.sets = sets
        (self.channels,) = channels
        (self.scale,) = scales

    def images(self, split: Split) -> Images:
        parts = [one.images(split) for one in self.sets]
        names = [name for part in parts for name in part.names]
        if len(data_range := {part.data_range for part in parts}) > 1:
            raise ValueError(f"the sets have {' and '.join(map(str, sorted(data_range)))} for white; use one")

        def joined(kind: str) -> list[np.ndarray] | None:
            lists = [getattr(part, kind) for part in parts]
            return None if None in lists else [image for one in lists for image in one]

        clean, noisy = joined("clean"), joined("noisy")
        if clean is None and noisy is None:
            raise ValueError("some of the sets have clean images alone, and others noisy ones alone")
        if noisy is None and any(part.noisy is not None for part in parts):
            raise ValueError("some of the sets have noisy images of their own, and others none")
        return Images(names, clean, noisy, data_range.pop(), self.scale)


class ItsTestImages(PairSet):
    """The test images of a set, to train on too, as methods may that need no clean images.

    Args:
        images: the set.
    """

    def __init__(self, images: PairSet) -> None:
        self.of = images
        self.channels = images.channels
        self.scale = images.scale

    def images(self, split: Split) -> Images:
        return self.of.images("test")


class Crops(PairSet):
    """The centres of some images of a set, evenly spaced over it, for methods that take minutes an image.

    Args:
        images: the set.
        crop_size: side of the squares, in pixels.
        count: number of images.

    Raises:
        ValueError: if an argument is below 1, the set has fewer images, or one is smaller than a square.
    """

    def __init__(self, images: PairSet, crop_size: int, count: int) -> None:
        at_least(1, crop_size=crop_size, count=count)
        self.of = images
        self.channels = images.channels
        self.crop_size = crop_size
        self.count = count

    def images(self, split: Split) -> Images:
        images = self.of.images(split)
        if len(images.names) < self.count:
            raise ValueError(f"{type(self.of).__name__} has {len(images.names)} images, and count is {self.count}")
        places = [number * len(images.names) // self.count for number in range(self.count)]

        def centres(of: Sequence[Pixels]) -> list[Pixels]:
            return [self._centre(images.names[place], of[place]) for place in places]

        return Images(
            [images.names[place] for place in places],
            None if images.clean is None else centres(images.clean),
            None if images.noisy is None else centres(images.noisy),
            images.data_range,
        )

    def _centre(self, name: str, image: Pixels) -> Pixels:
        top, left = ((side - self.crop_size) // 2 for side in image.shape[1:])
        if min(top, left) < 0:
            raise ValueError(f"{name} has {image.shape[1]} x {image.shape[2]} pixels; crop_size is {self.crop_size}")
        cut: Pixels = image[:, top : top + self.crop_size, left : left + self.crop_size]
        return cut.copy()


class KnownImages(PairSet):
    """Clean images of a set that the field tests or trains on; use one of the classes that name it.

    Args:
        data_dir: folder that holds the set's folder, or the images themselves; None looks where NOISEWORKS_DATA points.
        colour: whether a set in colour is read in colour; otherwise in grey, as luma of Rec. 601.

    Raises:
        FileNotFoundError: if the set is missing, saying what was expected where.
        ValueError: if the number of its images or their sizes are others.
    """

    folders: tuple[str, ...]
    """Where its images lie, under `data_dir`."""
    count: int
    source: str
    """Where it comes from, for the message if it is missing."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths that it has; none for sets of any sizes."""

    def __init__(self, data_dir: str | None = None, colour: bool = True) -> None:
        self.data_dir = data_dir
        self.channels = 3 if colour else 1

    def images(self, split: Split) -> Images:
        folder = self._folder(split)
        names = image_files(folder, type(self).__name__)
        if len(names) != self.count:
            raise ValueError(f"{folder} holds {len(names)} images, and {type(self).__name__} has {self.count}")
        images = Images([stem_of(name) for name in names], read_images(folder, names, self.channels))
        for name, image in zip(names, images.stored, strict=True):
            if self.sizes and image.shape[1:] not in self.sizes:
                expected = " or ".join(f"{height} x {width}" for height, width in self.sizes)
                raise ValueError(f"{folder / name} has {image.shape[1]} x {image.shape[2]} pixels; expected {expected}")
        return images

    def _folder(self, split: Split) -> Path:
        return self._found(self.folders)

    def _found(self, folders: Sequence[str]) -> Path:
        name = type(self).__name__
        directory = data_directory(self.data_dir, name)
        for folder in (*folders, "."):
            if any(path.suffix.lower() in SUFFIXES for path in (directory / folder).glob("*")):
                return directory / folder
        raise FileNotFoundError(
            f"{name}: no images in {directory / folders[0]}, nor in {directory} itself; set data_dir to the folder of "
            f"one of them. {self.source}"
        )


class GreyImages(KnownImages):
    """Clean images of a set that is grey; use one of the classes that name it.

    Args:
        data_dir: folder that holds the set's folder, or the images themselves; None looks where NOISEWORKS_DATA points.
    """

    def __init__(self, data_dir: str | None = None) -> None:
        super().__init__(data_dir, colour=False)


class BSD68(GreyImages):
    """The 68 grey Berkeley test images, `BSD68/test001.png` to `test068.png`, 321 x 481 pixels or upright."""

    folders, count, sizes = ("BSD68", "Set68"), 68, ((321, 481), (481, 321))
    source = "The images are testsets/BSD68 of DnCNN's repository, github.com/cszn/DnCNN."


class Set12(GreyImages):
    """The 12 grey test images `Set12/01.png` to `12.png`, of 256 x 256 and 512 x 512 pixels."""

    folders, count, sizes = ("Set12",), 12, ((256, 256), (512, 512))
    source = "The images are testsets/Set12 of DnCNN's repository, github.com/cszn/DnCNN."


class Train400(GreyImages):
    """The 400 grey Berkeley training images of 180 x 180 pixels, also called BSD400."""

    folders, count, sizes = ("Train400", "BSD400"), 400, ((180, 180),)
    source = "The images are data/Train400 of DnCNN's training code, github.com/cszn/DnCNN."


class CBSD68(KnownImages):
    """The 68 Berkeley test images in colour, 321 x 481 pixels or upright; in grey, those of BSD68 but for rounding."""

    folders, count, sizes = ("CBSD68",), 68, ((321, 481), (481, 321))
    source = "The images are testsets/CBSD68 of FFDNet's repository, github.com/cszn/FFDNet."


class Kodak24(KnownImages):
    """The 24 Kodak images in colour, of either version, which give different numbers.

    These are the whole photographs, 512 x 768 pixels or upright, or FFDNet's crops, 500 x 500 pixels.
    """

    folders, count, sizes = ("Kodak24", "kodak", "Kodak"), 24, ((500, 500), (512, 768), (768, 512))
    source = "The crops are testsets/Kodak24 of FFDNet's repository; the whole images are at r0k.us/graphics/kodak."


class Urban100(KnownImages):
    """The 100 photographs of buildings in colour, `Urban100/img_001.png` to `img_100.png`."""

    folders, count = ("Urban100", "Urban100/HR"), 100
    source = "The set is linked from github.com/jbhuang0604/SelfExSR."


class DIV2K(KnownImages):
    """The 800 training and 100 validation photographs of about 2,000 pixels, which take 7 GB of memory in colour."""

    source = "The set is at data.vision.ee.ethz.ch/cvl/DIV2K."

    def _folder(self, split: Split) -> Path:
        self.count = 800 if split == "training" else 100
        folder = "DIV2K_train_HR" if split == "training" else "DIV2K_valid_HR"
        return self._found((f"DIV2K/{folder}", folder))
