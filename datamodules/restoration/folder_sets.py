"""Datasets that are folders of images: the user's own images (clean, noisy or pairs), and published datasets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.arguments import at_least
from datamodules.file_pairs import match_pairs, stem_of
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import SUFFIXES, image_names, images_at
from datamodules.files.pixels import page_layout, page_names, read_pixels
from datamodules.files.text_files import read_text
from datamodules.restoration.images import Images, PairSet, Split
from datamodules.restoration.reduced_images import with_reduced


def read_images(folder: Path, names: Sequence[str], channels: int, data_range: int | None = None) -> list[np.ndarray]:
    """Read image files in a folder as arrays `[C, H, W]`. The images may have different sizes."""
    return [read_pixels(folder / name, channels, data_range) for name in names]


def image_files(folder: Path, what: str) -> list[str]:
    """List the names of the image files in a folder and its subfolders.

    Args:
        folder: the folder.
        what: name of the argument or dataset, for error messages.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{what}: {folder} is not a folder; expected one with images")
    if not (names := image_names(folder)):
        raise FileNotFoundError(
            f"{what}: {folder} contains no image; expected files that end with {', '.join(SUFFIXES)}"
        )
    return names


class PairFolders(PairSet):
    """The user's images: noisy images, clean images, or both in two folders with the same file names.

    If there are no noisy images, `data.noise` corrupts the clean images. Methods that need no clean targets can be
    trained on noisy images alone.

    Each page of a TIFF file or frame of an animation is an image.

    Args:
        clean_dir: folder of clean images, including subfolders, or one image file.
        noisy_dir: folder of noisy images, or one image file.
        colour: whether to read images in colour. False converts images to grey (Rec. 601 luma).
        data_range: stored value of a white pixel, which is 255 for 8-bit images. It is required for 16-bit and
            floating-point images. Floating-point images are divided by it, and not clipped.
    """

    def __init__(
        self,
        clean_dir: str | None = None,
        noisy_dir: str | None = None,
        colour: bool = True,
        data_range: int | float | None = None,
    ) -> None:
        if clean_dir is None and noisy_dir is None:
            raise ValueError(
                "PairFolders needs noisy_dir, clean_dir or both: set for example --data.training.noisy_dir MY_IMAGES"
            )
        self.clean_dir = clean_dir
        self.noisy_dir = noisy_dir
        self.channels = 3 if colour else 1
        self.data_range = data_range

    def images(self, split: Split) -> Images:
        given = {"clean": self.clean_dir, "noisy": self.noisy_dir}
        found = {kind: images_at(path, f"{kind}_dir") for kind, path in given.items() if path}
        files = {kind: names for kind, (_, names) in found.items()}
        if len(files) == 2:
            pairs = match_pairs(files["noisy"], files["clean"], Path(str(self.noisy_dir)))
            files = {"noisy": [noisy for noisy, _ in pairs], "clean": [clean for _, clean in pairs]}
        titles: dict[str, list[str]] = {}
        read: dict[str, list[np.ndarray] | None] = {"clean": None, "noisy": None}
        for kind, (folder, _) in found.items():
            pages = [(name, page_names(page_layout(folder / name), stem_of(name))) for name in files[kind]]
            titles[kind] = [title for _, own in pages for title in own]
            read[kind] = [
                read_pixels(folder / name, self.channels, self.data_range, page=page)
                for name, own in pages
                for page in range(len(own))
            ]
        if len(titles) == 2 and (alone := sorted({*titles["noisy"]} ^ {*titles["clean"]})):
            raise ValueError(f"{self.noisy_dir}: {alone[0]} has no counterpart; clean and noisy pages must be as many")
        white = self.data_range or 255
        if any(image.dtype == np.float32 for images in read.values() for image in images or ()):
            read = {kind: images and [image / np.float32(white) for image in images] for kind, images in read.items()}
            white = 1
        return Images(next(iter(titles.values())), read["clean"], read["noisy"], white)


def centre_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """Downsample an image `[C, H, W]` so that its short side has `size` pixels, and crop the central square.

    As in guided diffusion (Dhariwal and Nichol 2021), both sides of the image are halved by averaging blocks, as long
    as the short side is at least twice `size`. Then the image is resized bicubically.
    """
    image = Image.fromarray(np.squeeze(pixels.transpose(1, 2, 0), 2) if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    cut = np.atleast_3d(np.asarray(image))[top : top + size, left : left + size]
    return np.ascontiguousarray(cut.transpose(2, 0, 1))


class CentreCrops(PairSet):
    """Clean images in a folder and its subfolders. Each image is downsampled and cropped to its central square.

    Args:
        clean_dir: folder of the images.
        image_size: height and width of an image, in pixels.
        listing: text file with an image name at the start of each line. Only the listed images are read, in the order
            of the file. None means all images.
        colour: whether to read images in colour. False converts images to grey (Rec. 601 luma).
    """

    def __init__(self, clean_dir: str, image_size: int = 256, listing: str | None = None, colour: bool = True) -> None:
        at_least(1, image_size=image_size)
        self.clean_dir = clean_dir
        self.image_size = image_size
        self.listing = listing
        self.channels = 3 if colour else 1

    def images(self, split: Split) -> Images:
        folder = Path(self.clean_dir).expanduser()
        names = image_files(folder, "clean_dir")
        if self.listing is not None:
            if not (path := Path(self.listing).expanduser()).is_file():
                raise FileNotFoundError(f"listing {path} does not exist; expected a text file with a name per line")
            names = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
        crops = [centre_crop(read_images(folder, [name], self.channels)[0], self.image_size) for name in names]
        return Images([stem_of(name) for name in names], crops)


class ScaledFolders(PairSet):
    """The user's pairs of a large and a small image with the same file name, or large images that are downsampled.

    Args:
        large_dir: folder of large images, including subfolders.
        small_dir: folder of small images. None downsamples the large images in the same way as MATLAB's bicubic
            `imresize`.
        factor: height of a large image divided by the height of its small image.
        colour: whether to read images in colour. False converts images to grey (Rec. 601 luma).
    """

    def __init__(self, large_dir: str, small_dir: str | None = None, factor: int = 4, colour: bool = True) -> None:
        at_least(2, factor=factor)
        self.large_dir = Path(large_dir).expanduser()
        self.small_dir = None if small_dir is None else Path(small_dir).expanduser()
        self.scale = factor
        self.channels = 3 if colour else 1

    def images(self, split: Split) -> Images:
        large = image_files(self.large_dir, "large_dir")
        if self.small_dir is None:
            images = read_images(self.large_dir, large, self.channels)
            return with_reduced([stem_of(name) for name in large], images, self.scale, 255)
        pairs = match_pairs(image_files(self.small_dir, "small_dir"), large, self.small_dir, kinds=("small", "large"))
        return Images(
            [stem_of(name) for _, name in pairs],
            read_images(self.large_dir, [name for _, name in pairs], self.channels),
            read_images(self.small_dir, [name for name, _ in pairs], self.channels),
            scale=self.scale,
        )


class KnownImages(PairSet):
    """Base class of published datasets of clean images.

    Args:
        data_dir: folder that contains the dataset's folder, or the images themselves. None means the NOISEWORKS_DATA
            directory.
        colour: whether to read images in colour. False converts images to grey (Rec. 601 luma).
    """

    folders: tuple[str, ...]
    """Folders that are searched for images, relative to `data_dir`."""
    count: int
    source: str
    """Download source of the dataset, for the error message if the dataset is missing."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Allowed pairs of height and width. Empty if all sizes are allowed."""

    def __init__(self, data_dir: str | None = None, colour: bool = True) -> None:
        self.data_dir = data_dir
        self.channels = 3 if colour else 1

    def images(self, split: Split) -> Images:
        folder = self._folder(split)
        names = image_files(folder, type(self).__name__)
        if len(names) != self.count:
            raise ValueError(f"{folder} contains {len(names)} images, but {type(self).__name__} has {self.count}")
        images = Images([stem_of(name) for name in names], read_images(folder, names, self.channels))
        for name, image in zip(names, images.stored, strict=True):
            if self.sizes and image.shape[1:] not in self.sizes:
                expected = " or ".join(f"{height} x {width}" for height, width in self.sizes)
                raise ValueError(f"{folder / name} has {image.shape[1]} x {image.shape[2]} pixels; expected {expected}")
        return images

    def _folder(self, split: Split) -> Path:
        return self._find(self.folders)

    def _find(self, folders: Sequence[str]) -> Path:
        name = type(self).__name__
        directory = data_directory(self.data_dir, name)
        for folder in (*folders, "."):
            if any(path.suffix.lower() in SUFFIXES for path in (directory / folder).glob("*")):
                return directory / folder
        raise FileNotFoundError(
            f"{name}: no images in {directory / folders[0]}, nor in {directory} itself; set data_dir to the folder of "
            f"the images or to the folder that contains it. {self.source}"
        )


class GreyImages(KnownImages):
    """Base class of published datasets of clean grey images.

    Args:
        data_dir: folder that contains the dataset's folder, or the images themselves. None means the NOISEWORKS_DATA
            directory.
    """

    def __init__(self, data_dir: str | None = None) -> None:
        super().__init__(data_dir, colour=False)


class BSD68(GreyImages):
    """The 68 grey Berkeley test images `BSD68/test001.png` to `test068.png`, of 321 x 481 or 481 x 321 pixels."""

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
    """The 68 Berkeley test images in colour, of 321 x 481 or 481 x 321 pixels. Their grey versions are BSD68."""

    folders, count, sizes = ("CBSD68",), 68, ((321, 481), (481, 321))
    source = "The images are testsets/CBSD68 of FFDNet's repository, github.com/cszn/FFDNet."


class CBSD400(KnownImages):
    """The 400 training and test images of BSDS500 in colour.

    The images have 321 x 481 or 481 x 321 pixels, or all of them are crops of 180 x 180 pixels. The grey versions of
    the crops are Train400.
    """

    folders, count, sizes = ("CBSD400",), 400, ((321, 481), (481, 321), (180, 180))
    source = "The images are the folders train and test of BSDS500, www2.eecs.berkeley.edu/Research/Projects/CS/vision."


class Kodak24(KnownImages):
    """The 24 Kodak images in colour. The dataset has two versions, which give different results.

    The folder contains either the whole photographs of 512 x 768 or 768 x 512 pixels, or FFDNet's crops of 500 x 500
    pixels.
    """

    folders, count, sizes = ("Kodak24", "kodak", "Kodak"), 24, ((500, 500), (512, 768), (768, 512))
    source = "The crops are testsets/Kodak24 of FFDNet's repository; the whole images are at r0k.us/graphics/kodak."


class Urban100(KnownImages):
    """The 100 photographs of buildings in colour, `Urban100/img_001.png` to `img_100.png`."""

    folders, count = ("Urban100", "Urban100/HR"), 100
    source = "The set is linked from github.com/jbhuang0604/SelfExSR."


class DIV2K(KnownImages):
    """The 800 training and 100 validation photographs of DIV2K, about 2,000 pixels wide: 7 GB of memory in colour."""

    source = "The set is at data.vision.ee.ethz.ch/cvl/DIV2K."

    def _folder(self, split: Split) -> Path:
        self.count = 800 if split == "training" else 100
        folder = "DIV2K_train_HR" if split == "training" else "DIV2K_valid_HR"
        return self._find((f"DIV2K/{folder}", folder))
