"""ImageNet32: ImageNet's training images at 32 x 32 pixels, as images of no class of another set.

Source: Chrabaszcz, Loshchilov and Hutter, A Downsampled Variant of ImageNet as an Alternative to the CIFAR datasets,
2017, arXiv 1707.08819.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch

from datamodules.arguments import within
from datamodules.classification.image_sets import UNKNOWN, ImagesInMemory, OtherImages
from datamodules.files.array_pickle import read_pickled_arrays
from datamodules.files.data_directory import data_directory

NUM_FILES = 10


def read_batch(file: Path) -> np.ndarray:
    """Read the images of a file, `[N, 3, 32, 32]`, uint8.

    Args:
        file: a pickle of a dictionary with `data`, or an `.npz` with it: `[N, 3072]`, uint8, red, then green, then
            blue.

    Raises:
        ValueError: if the file is damaged or holds anything else.
    """
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                data = arrays["data"]
        else:
            data = np.asarray(read_pickled_arrays(file)["data"])
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is damaged or not a batch of ImageNet32 ({error}); fetch it again") from error
    if data.ndim != 2 or data.shape[1] != 3072 or data.dtype != np.uint8:
        raise ValueError(f"{file}: data must be [N, 3072] of uint8, got {list(data.shape)} of {data.dtype}")
    return data.reshape(-1, 3, 32, 32)


class ImageNet32(OtherImages):
    """Training images in `train_data_batch_1` to `train_data_batch_10`, pickles or `.npz`, as distributed.

    Args:
        data_dir: folder that holds them, or `imagenet32` with them; None looks where NOISEWORKS_DATA points.
        num_files: number of files that are read, the first ones, in 1...10; all take 4 GB.

    Raises:
        ValueError: if `num_files` is out of range.
    """

    def __init__(self, data_dir: str | None = None, num_files: int = NUM_FILES) -> None:
        within(1, NUM_FILES, num_files=num_files)
        self.data_dir = data_dir
        self.num_files = num_files

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImagesInMemory:
        if tuple(image_shape) != (3, 32, 32):
            raise ValueError(f"ImageNet32 has images [3, 32, 32], and those of the set are {list(image_shape)}")
        root = data_directory(self.data_dir, "ImageNet32")
        image = np.concatenate([read_batch(self._file(root, number)) for number in range(1, self.num_files + 1)])
        return ImagesInMemory(torch.from_numpy(image), torch.full((len(image),), UNKNOWN))

    @staticmethod
    def _file(root: Path, number: int) -> Path:
        name = f"train_data_batch_{number}"
        for folder in (root, root / "imagenet32"):
            for file in (folder / name, folder / f"{name}.npz"):
                if file.is_file():
                    return file
        raise FileNotFoundError(
            f"ImageNet32: {root / name} does not exist (nor {name}.npz, nor either in imagenet32); fetch "
            f"Imagenet32_train from https://image-net.org/download-images and set data_dir to its folder"
        )
