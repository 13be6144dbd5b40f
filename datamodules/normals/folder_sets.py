"""Folders of images with a normal map for each image, and the usual test sets for normal estimation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import one_of
from datamodules.files.array_files import read_npy
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import UnreadableImage, opened_image
from datamodules.files.pixels import read_pixels
from datamodules.normals.normal_set import NormalSet, NormalSource, Split, flip_axes

LEFT_UP_VIEWER = (-1, 1, 1)
"""Axes in the datasets of DSINE's authors; depth and normals in the authors' example agree with these axes."""
RIGHT_UP_VIEWER = (1, 1, 1)


def read_normals(path: Path) -> NDArray:
    """Read a normal map: 8-bit values in a PNG file, or floating-point numbers `[H, W, 3]` in an `.npy` file.

    Returns:
        Normals `[3, H, W]`, uint8 or float32.
    """
    if path.suffix != ".npy":
        return read_pixels(path, channels=3)
    try:
        values = read_npy(path)
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"{path} cannot be read as an array ({error}); replace or remove it") from error
    if values.ndim != 3 or values.shape[2] != 3 or values.dtype.kind != "f":
        raise UnreadableImage(f"{path} has {values.dtype} {list(values.shape)}; expected numbers [height, width, 3]")
    return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)


class NormalFiles(NormalSource):
    """Image files and normal-map files. The files are decoded on access.

    Args:
        images: image files, `[N]`.
        normals: files with the normal map of each image, `[N]`.
        names: names of the images, `[N]`.
        axes: signs by which the stored x, y and z are multiplied, so that the axes point right, up and towards the
            viewer.
    """

    def __init__(
        self, images: Sequence[Path], normals: Sequence[Path], names: Sequence[str], axes: Sequence[int]
    ) -> None:
        self.images = images
        self.normals = normals
        self.names = names
        self.axes = axes
        self.sizes = [size_of(path) for path in images]

    def read(self, position: int) -> tuple[NDArray, NDArray]:
        image, normal = read_pixels(self.images[position], 3), read_normals(self.normals[position])
        if image.shape != normal.shape:
            raise ValueError(
                f"{self.images[position]} has {image.shape[1]} x {image.shape[2]} pixels, but {self.normals[position]} "
                f"has {normal.shape[1]} x {normal.shape[2]}"
            )
        return image, flip_axes(normal, self.axes)


def size_of(path: Path) -> tuple[int, int]:
    """Read height and width of an image from its header."""
    with opened_image(path) as image:
        return image.height, image.width


class NormalFolder(NormalSet):
    """Dataset of the user's images and their normal maps, in a folder or its subfolders.

    The file names of an image and its normal map differ only in their endings.

    Args:
        data_dir: folder of the files. None means the NOISEWORKS_DATA directory.
        image_end: ending of the file names of images, such as `_rgb.png`.
        normal_end: ending of the file names of normal maps, such as `_normal.png`. In PNG files, the value v means 2 v
            / 255 - 1. `.npy` files contain floating-point numbers `[height, width, 3]`. Black pixels and zero vectors
            mark pixels without a normal.
        axes: signs by which the stored x, y and z are multiplied, so that the axes point to the right of the image, up
            and towards the viewer.
        folder: subfolder of `data_dir` from which files are read.
    """

    counts: tuple[int, int] | None = None
    """Expected numbers of training and test images. None means that the numbers are not checked."""
    origin: str = ""
    """Sentence on where to obtain the dataset, for the error message if files are missing."""

    def __init__(
        self,
        data_dir: str | None = None,
        image_end: str = "_img.png",
        normal_end: str = "_normal.png",
        axes: tuple[int, int, int] = RIGHT_UP_VIEWER,
        folder: str = ".",
    ) -> None:
        for sign in axes:
            one_of((1, -1), axes=sign)
        self.data_dir = data_dir
        self.image_end = image_end
        self.normal_end = normal_end
        self.axes = tuple(axes)
        self.folder = folder

    def source(self, split: Split) -> NormalFiles:
        name = type(self).__name__
        folder = data_directory(self.data_dir, name) / self._folder(split)
        images = sorted(folder.rglob(f"*{self.image_end}"))
        images = [path for path in images if not path.name.endswith(self.normal_end)]
        if not images:
            raise FileNotFoundError(
                f"{name}: no file *{self.image_end} in {folder} or its subfolders; set data_dir to the folder of "
                f"{self._folder(split)}. {self.origin}".rstrip()
            )
        stems = [str(path)[: -len(self.image_end)] for path in images]
        normals = [Path(stem + self.normal_end) for stem in stems]
        if lacking := [path for path in normals if not path.is_file()]:
            raise FileNotFoundError(
                f"{name}: {len(lacking)} of {len(images)} images have no normals: the first missing file is "
                f"{lacking[0]}. {self.origin}".rstrip()
            )
        if self.counts is not None and len(images) != (expected := self.counts[split != "training"]):
            raise ValueError(f"{folder} has {len(images)} images, but {name} has {expected}")
        names = [Path(stem).relative_to(folder).as_posix() for stem in stems]
        return NormalFiles(images, normals, names, self.axes)

    def _folder(self, split: Split) -> str:
        return self.folder


DSINE = "The set is in dsine_eval.zip of github.com/baegwangbin/DSINE."


class NYUv2(NormalFolder):
    """The 654 test and 795 training images of NYUv2, in `dsine_eval/nyuv2/{test,train}/<number>_{img,normal}.png`.

    Args:
        data_dir: folder that contains `dsine_eval`. None means the NOISEWORKS_DATA directory.
    """

    counts, origin = (795, 654), DSINE

    def __init__(self, data_dir: str | None = None) -> None:
        super().__init__(data_dir, axes=LEFT_UP_VIEWER)

    def _folder(self, split: Split) -> str:
        return f"dsine_eval/nyuv2/{'train' if split == 'training' else 'test'}"


class ScanNet(NormalFolder):
    """The 300 test images of ScanNet, in `dsine_eval/scannet/<scene>/<number>_{img,normal}.png`.

    Args:
        data_dir: folder that contains `dsine_eval`. None means the NOISEWORKS_DATA directory.
    """

    counts, origin = (300, 300), DSINE

    def __init__(self, data_dir: str | None = None) -> None:
        super().__init__(data_dir, axes=LEFT_UP_VIEWER, folder="dsine_eval/scannet")


class IBims(NormalFolder):
    """The 100 images of iBims-1, in `dsine_eval/ibims/ibims/<name>_img.png` and `_normal.npy`, converted from OpenEXR.

    Args:
        data_dir: folder that contains `dsine_eval`. None means the NOISEWORKS_DATA directory.
    """

    counts = (100, 100)
    origin = (
        f"{DSINE} Its normals are OpenEXR files; in their folder, OpenCV rewrites them: OPENCV_IO_ENABLE_OPENEXR=1 "
        'python -c "import cv2, glob, numpy; '
        "[numpy.save(f[:-4], cv2.imread(f, -1)[:, :, ::-1]) for f in glob.glob('*_normal.exr')]\""
    )

    def __init__(self, data_dir: str | None = None) -> None:
        super().__init__(data_dir, normal_end="_normal.npy", axes=LEFT_UP_VIEWER, folder="dsine_eval/ibims")


class DIODE(NormalFolder):
    """The indoor images of DIODE, `*.png` in `train/indoors` and `val/indoors`, with normals in `*_normal.npy`.

    The axes are assumed to point right (x), up (y) and towards the viewer (z), as in a published data loader. This
    assumption was not checked with a file of DIODE.

    Args:
        data_dir: folder that contains `train` and `val`. None means the NOISEWORKS_DATA directory.
    """

    origin = "Images and normals are two archives each at diode-dataset.org; unpack both into one folder."

    def __init__(self, data_dir: str | None = None) -> None:
        super().__init__(data_dir, image_end=".png", normal_end="_normal.npy")

    def _folder(self, split: Split) -> str:
        return "train/indoors" if split == "training" else "val/indoors"
