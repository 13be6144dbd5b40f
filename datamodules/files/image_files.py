"""Image files: listing of folders, decoding and cropping.

Cropping and resizing are one operation: a box of the source image is resized to the size of the crop. JPEGs are decoded
at the lowest resolution that is sufficient for this.
"""

import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin
from torch import Tensor

from datamodules.arguments import at_least, one_of, within
from datamodules.augmentation.boxes import NUM_UNIFORM, Box, box_of_random_area
from datamodules.files.data_directory import Paths, given_files
from datamodules.files.limits import check_is_file, sentence

_JPEG = (".jfif", ".jp2", ".jpe", ".jpeg", ".jpg")
SUFFIXES = (".avif", ".bmp", ".gif", *_JPEG, ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, in any case. Files with other suffixes are ignored when a folder is read."""
NEW_SUBFILE_TYPE, REDUCED_OR_MASK = 254, 1 | 4
"""Tag of a TIFF page, and the bits of its value that mark a reduced copy of a page or a transparency mask."""
Interpolation = Literal["bilinear", "bicubic"]
"""Resampling methods, both with antialiasing."""


class UnreadableImage(ValueError):
    """Raised for a file that is missing, damaged or not an image.

    If a DataLoader worker raises this error, PyTorch adds the traceback to the message. `__str__` returns only the
    original message.
    """

    def __str__(self) -> str:
        return super().__str__().rsplit(f"{type(self).__name__}: ", maxsplit=1)[-1].strip()


def page_frames(image: Image.Image) -> list[int]:
    """List the frames of an image file that are pages: the pages of a TIFF file, or the frames of an animation.

    Previews in JPEG files of cameras, and reduced copies and transparency masks in TIFF files, are not pages.
    """
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return [0]
    frames = range(getattr(image, "n_frames", 1))
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return list(frames)
    kinds = []
    for frame in frames:
        image.seek(frame)
        kinds.append(image.tag_v2.get(NEW_SUBFILE_TYPE, 0))
    image.seek(0)
    return [frame for frame in frames if not kinds[frame] & REDUCED_OR_MASK] or [0]


def count_pages(path: Path) -> int:
    """Count the pages of an image file, see `page_frames`."""
    with opened_image(path, page=0) as image:
        return len(page_frames(image))


@contextmanager
def errors_in_one_sentence(path: Path | str, kind: str = "an image") -> Iterator[None]:
    """Raise any error within the `with` block again as an `UnreadableImage` that names the file."""
    try:
        yield
    except UnreadableImage:
        raise
    except Exception as error:  # decoders raise almost any exception type for a damaged file
        raise UnreadableImage(f"{path} cannot be read as {kind} ({sentence(error)}); replace or remove it") from error


def check_single_page(path: Path | str, kind: str, pages: int) -> None:
    """Reject a file with several pages, because all but one would be ignored."""
    if pages > 1:
        raise UnreadableImage(
            f"{path} has {pages} pages, but {kind} must have one here; save each page as its own file"
        )


@contextmanager
def opened_image(
    path: Path | str, kind: str = "an image", content: bytes | None = None, page: int | None = None
) -> Iterator[ImageFile.ImageFile]:
    """Open an image.

    Any error within the `with` block is raised again as an `UnreadableImage` with a one-sentence message.

    Args:
        path: path of the file. Pipes and devices are rejected, because reading them may block.
        kind: what the file should be, such as "an image", for the error message.
        content: encoded image, if it is stored inside a different file. In this case, `path` is used only in error
            messages.
        page: position of the page to open, see `page_frames`. None rejects files with several pages, because all but
            one would be ignored.
    """
    with errors_in_one_sentence(path, kind):
        if content is None and Path(path).exists():  # otherwise, Pillow raises the error
            check_is_file(Path(path))
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            frames = page_frames(image)
            if page is None:
                check_single_page(path, kind, len(frames))
            if (frame := frames[page or 0]) != image.tell():
                image.seek(frame)
            yield image


def box_after_resizing(width: int, height: int, resize: int, size: int, place: Sequence[float] | None) -> Box:
    """Compute which box of the source image becomes a given square of the resized image.

    Args:
        width: width of the source, in pixels.
        height: height of the source, in pixels.
        resize: length of the short side after resizing, in pixels. The length of the long side is rounded down.
        size: side of the square, at most `resize`.
        place: vertical and horizontal position of the square as numbers in [0, 1), which are mapped uniformly to the
            possible positions. None means the centre.
    """
    short = min(width, height)
    resized = width * resize // short, height * resize // short
    return box_in_resized((width, height), resized, corner_of_crop(resized, (size, size), place), (size, size))


def corner_of_crop(resized: tuple[int, int], size: tuple[int, int], place: Sequence[float] | None) -> tuple[int, int]:
    """Return the left and top coordinates of a crop in a resized image, in pixels.

    Args:
        resized: width and height of the resized image.
        size: width and height of the crop.
        place: vertical and horizontal position of the crop, each in [0, 1), as in `box_after_resizing`. None means the
            centre.
    """
    across, down = resized[0] - size[0], resized[1] - size[1]
    if place is None:
        return round(across / 2), round(down / 2)
    return math.floor(place[1] * (across + 1)), math.floor(place[0] * (down + 1))


def box_in_resized(
    source: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> Box:
    """Compute the box in the source image that corresponds to a crop of the resized image.

    Args:
        source: width and height of the source, in pixels.
        resized: width and height of the resized image.
        corner: left and top coordinates of the crop.
        size: width and height of the crop.
    """
    (width, height), (left, top) = source, corner
    across, down = width / resized[0], height / resized[1]
    return Box(left * across, top * down, min((left + size[0]) * across, width), min((top + size[1]) * down, height))


class Crop:
    """Crop that resizes the short side of an image to a given length, and cuts out a square.

    In training, the square is at a random position; otherwise, it is in the centre.

    Args:
        size: side of the square, in pixels.
        resize: length of the short side after resizing, at least `size`. None means `size * 256 / 224`.
        interpolation: resampling method.
    """

    num_uniform = 2
    upright = False
    """Whether images are rotated and mirrored according to their orientation tag."""
    background = "white"
    """Colour behind transparent pixels."""
    data_range: float | None = None
    """Stored value of white in images that keep their depth (see `read_deep_crop`). None means 8 bits."""

    def __init__(self, size: int, resize: int | None, interpolation: Interpolation = "bilinear") -> None:
        at_least(1, image_size=size)
        resize = round(size * 256 / 224) if resize is None else resize
        if resize < size:
            raise ValueError(f"resize must be at least image_size, {size}, got {resize}")
        one_of(get_args(Interpolation), interpolation=interpolation)
        self.size = size
        self.resize = resize
        self.interpolation = interpolation

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the crop, in pixels."""
        return self.size, self.size

    def box(self, width: int, height: int, uniform: Sequence[float] | None) -> Box:
        return box_after_resizing(width, height, self.resize, self.size, uniform)


class ResizedCrop(Crop):
    """Random resized crop of training images.

    Images that are not for training are resized and cropped like those of `Crop`.

    Args:
        size: side of the square, in pixels.
        resize: length of the short side of images that are not for training, after resizing; at least `size`. None
            means `size * 256 / 224`.
        min_area: smallest area of a training crop, as a fraction of the area of the image, in (0, 1]. The aspect ratio
            of the crop is in 3/4...4/3.
    """

    num_uniform = NUM_UNIFORM

    def __init__(self, size: int, resize: int | None, min_area: float = 0.08) -> None:
        super().__init__(size, resize)
        within(0, 1, "(]", min_area=min_area)
        self.min_area = min_area

    def box(self, width: int, height: int, uniform: Sequence[float] | None) -> Box:
        if uniform is None:
            return super().box(width, height, None)
        return box_of_random_area(width, height, uniform, (self.min_area, 1.0), (3 / 4, 4 / 3))


class WholeImage(Crop):
    """Resizing of whole images to squares, regardless of their aspect ratio."""

    num_uniform = 0

    def __init__(self, size: int, data_range: float | None = None) -> None:
        super().__init__(size, size)
        self.data_range = data_range

    def box(self, width: int, height: int, uniform: Sequence[float] | None) -> Box:
        return Box(0, 0, width, height)


def chosen_crop(image_size: int, resize: int | None, min_area: float | None) -> Crop:
    """Return a `ResizedCrop` if `min_area` is given, and a `Crop` otherwise."""
    return Crop(image_size, resize) if min_area is None else ResizedCrop(image_size, resize, min_area)


def eight_bits(image: Image.Image, background: str = "white") -> Image.Image:
    """Convert 16-bit grey images to 8 bits, and composite transparent images on a background.

    Other images are returned unchanged. The colour of a fully transparent pixel is arbitrary in the file. There is a
    warning if the values of a 16-bit image fit into 12 bits, of which 4 remain.
    """
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers; set data_range of the dataset, or write 8 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if 0 < values.max() < 4096:
            warnings.warn(
                "a 16-bit image has no value above 4095, and white is 65535: if the images have 12 bits, set "
                "data_range of the dataset to 4095, or multiply their values by 16, as 4 bits would remain",
                stacklevel=2,
            )
        return Image.fromarray((values / 257).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
    return image


def read_crop(
    path: Path | str, crop: Crop, uniform: Sequence[float] | None, content: bytes | None = None
) -> np.ndarray:
    """Decode, crop and resize an image.

    Args:
        path: path of the file. The orientation tag is applied only if the crop is `upright`; otherwise, it is ignored,
            as in torchvision. Grey images of 16 bits are scaled to 8 bits. Transparent images are composited on the
            crop's background.
        crop: crop to apply.
        uniform: numbers in [0, 1) that determine the random crop. None means the centre crop.
        content: encoded image, if it is stored inside a different file. In this case, `path` is used only in error
            messages.

    Returns:
        RGB image, `[height, width, 3]`, uint8, with the height and width in `crop.shape`.
    """
    with opened_image(path, content=content) as image:
        turned = crop.upright and orientation(image) != 1
        width, height = upright_size(image) if turned else image.size
        box = crop.box(width, height, uniform)
        tall, wide = crop.shape
        # It is faster to decode JPEGs at 1/2, 1/4 or 1/8 of their size. Twice the resolution of the crop is enough,
        # because the difference is not visible.
        wanted = (
            math.ceil(2 * wide * width / (box.right - box.left)),
            math.ceil(2 * tall * height / (box.bottom - box.top)),
        )
        if not turned and (drafted := image.draft("RGB", wanted)):
            part = drafted[1][2] / width
            box = Box(*(edge * part for edge in box))
        upright = ImageOps.exif_transpose(image) if turned else image
        rgb = upright if upright.mode == "RGB" else eight_bits(upright, crop.background).convert("RGB")
        resampling = Image.Resampling[crop.interpolation.upper()]
        return np.array(rgb.resize((wide, tall), resampling, box))


def orientation(image: Image.Image) -> int:
    """Return the orientation tag of an image, 1 to 8. The tag of an upright image is 1."""
    if image.format == "TIFF":  # Pillow rotates TIFF images automatically
        return 1
    tag = image.getexif().get(ExifTags.Base.Orientation, 1)
    return tag if tag in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of an image after rotation according to its orientation tag."""
    width, height = image.size
    return (height, width) if orientation(image) > 4 else (width, height)


def size_in_header(path: Path | str, content: bytes | None = None) -> tuple[int, int]:
    """Read the size of an image without decoding it: height and width after rotation by the orientation tag.

    Args:
        path: path of the file.
        content: encoded image, if it is stored inside a different file. In this case, `path` is used only in error
            messages.
    """
    with opened_image(path, content=content) as image:
        width, height = upright_size(image)
        return height, width


class ImagesFound(NamedTuple):
    """Images found in a folder and its subfolders."""

    names: list[str]
    """Sorted names of the images, relative to the folder."""
    folders: list[str]
    """Real paths of the folders that contain images."""
    linked: dict[str, str]
    """Images found only through a link to the image: a dictionary from the real path of an image to the link's name."""


def images_in(folder: Path) -> ImagesFound:
    """Find the image files in a folder and its subfolders, excluding hidden files, pipes and devices.

    Links are followed. If several paths lead to the same folder or file, it is listed only once, and a path without
    links is preferred. Links to a parent folder are ignored.
    """
    around = {os.path.realpath(parent) for parent in folder.absolute().parents}
    seen = around | {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    own = {os.path.realpath(folder): ""}
    linked_folders: list[tuple[str, str]] = []
    names: list[str] = []
    folders: list[str] = []
    links: dict[str, str] = {}
    present: set[str] = set()
    while own or linked_folders:
        real, prefix = own.popitem() if own else linked_folders.pop(0)
        if real in seen:
            continue
        seen.add(real)
        before = len(names)
        with os.scandir(real) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name, is_link, is_image = prefix + entry.name, entry.is_symlink(), entry.name.lower().endswith(SUFFIXES)
                if entry.name.startswith("."):
                    continue
                if is_link and os.path.isdir(entry.path):
                    linked_folders.append((os.path.realpath(entry.path), f"{name}/"))
                elif is_link and is_image and not _waits(entry.path):
                    links.setdefault(os.path.realpath(entry.path), name)
                elif not is_link and entry.is_dir():
                    own[entry.path] = f"{name}/"
                elif not is_link and is_image and entry.is_file():
                    names.append(name)
                    present.add(entry.path)
        folders += [real] * (len(names) > before)
    linked = {real: name for real, name in links.items() if real not in present}
    return ImagesFound(sorted([*names, *linked.values()]), folders, linked)


def _waits(path: str) -> bool:
    """Return whether a path is a pipe or a device. Reading from it could block forever."""
    return os.path.exists(path) and not os.path.isfile(path)


def image_names(folder: Path) -> list[str]:
    """List the image files in a folder and its subfolders, as sorted relative names.

    For the rules, see `images_in`.
    """
    return images_in(folder).names


def required_folder(folder: Path, key: str) -> None:
    """Reject a folder that does not exist or has no images.

    Args:
        folder: folder to search, including subfolders.
        key: name of the argument that specifies the folder, for error messages.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{key}: {folder} is not a folder; expected a folder with images at any depth")
    if not image_names(folder):
        raise FileNotFoundError(f"{key}: {folder} holds no image; expected files that end with {', '.join(SUFFIXES)}")


def images_at(given: Paths, key: str) -> tuple[Path, list[str]]:
    """Return a folder and the relative names of the given images.

    Args:
        given: folder to search, including subfolders, image file, or list; see `given_files`.
        key: name of the argument that specifies the path, for error messages.
    """

    def names_in(folder: Path) -> list[str]:
        required_folder(folder, key)
        return image_names(folder)

    return given_files(given, key, names_in)


def class_folders(split: Path) -> list[str]:
    """List the subfolders of a split, sorted by name.

    Each subfolder is a class.
    """
    expected = f"expected {split / '<class>' / '<image>'}, one folder for each class"
    if split.is_file():
        raise NotADirectoryError(f"{split} is a file; {expected}")
    if not split.is_dir():
        above = split.parent.name in ("train", "val", "test")
        meant = f"; did you mean the folder above, {split.parent.parent}?" if above else ""
        if not above and split.name == "train" and split.parent.is_dir():
            folders = sorted(each.name for each in split.parent.iterdir() if each.is_dir() and each.name[0] != ".")
            meant = f"; move the folders of the classes, such as {folders[0]}, into {split}" if folders else ""
        raise FileNotFoundError(f"{split} does not exist; {expected}{meant}")
    names = sorted(name for name in os.listdir(split) if not name.startswith("."))
    found = [name for name in names if os.path.isdir(split / name)]
    if not found:
        raise FileNotFoundError(f"{split} holds no folder; {expected}")
    return found


def _refuse_two_classes(split: Path, images: dict[str, ImagesFound]) -> None:
    """Reject images that are in the folders of two classes because of a link."""
    class_of: dict[str, str] = {}
    of_folders = [(real, real, name) for name, found in images.items() for real in found.folders]
    of_images = [(real, os.path.dirname(real), name) for name, found in images.items() for real in found.linked]
    for real, folder, name in [*of_folders, *of_images]:
        first = class_of.setdefault(real, class_of.get(folder, name))
        if first != name:
            both = " and ".join(sorted((first, name)))
            raise ValueError(f"{split}: {real} is in two classes, {both}, because of a link; leave it in one of them")


def files_by_class(split: Path, classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """List the images of a split with one folder per class, sorted by class and name.

    Returns:
        The file names relative to `split`, and the labels `[N]`, int64. A label is a position in `classes`.
    """
    names: list[str] = []
    counts = []
    images: dict[str, ImagesFound] = {}
    for name in classes:
        if not (split / name).is_dir():
            raise FileNotFoundError(f"{split} holds no folder {name}; expected {split / name / '<image>'}")
        images[name] = images_in(split / name)
        found = images[name].names
        if not found:
            raise FileNotFoundError(
                f"{split / name} holds no image; expected files that end with {', '.join(SUFFIXES)}"
            )
        names += [f"{name}/{file}" for file in found]
        counts.append(len(found))
    _refuse_two_classes(split, images)
    return names, torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
