"""Sets of images that a classifier was not trained on, to be told from its own test images.

The sets of the literature are resized or cropped to 32 x 32 pixels and lie in folders, `Imagenet_resize`,
`LSUN_resize`, `iSUN` and so on, as the authors of ODIN distribute them.

Source: Liang, Li and Srikant, Enhancing the Reliability of Out-of-distribution Image Detection in Neural Networks, ICLR
2018, arXiv 1706.02690, for those sets and the two kinds of noise.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from datamodules.classification.labelled_images import ImagesInMemory, ImageSource, LabelledImages
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import SUFFIXES, Crop, ImageFiles, image_names
from datamodules.loading.augmentation import sample_uniform

UNKNOWN = -1
"""The label of an out-of-distribution image."""


class OODImages(ABC):
    """Where the images of one set come from."""

    def fetch_missing(self) -> None:  # noqa: B027 - most have nothing to fetch
        """Downloads what is missing, if that was asked for. One process of a machine calls it."""

    @abstractmethod
    def read(self, image_shape: tuple[int, int, int], seed: int) -> ImageSource:
        """The images, all with the label -1.

        Args:
            image_shape: C, H, W of the in-distribution images, which these must have.
            seed: seeds what is drawn at random.

        Raises:
            FileNotFoundError: if they are missing, saying what was expected where.
            ValueError: if they are damaged or do not have that shape.
        """


def _check_number(num_images: int | None, least: int = 1) -> None:
    if num_images is not None and num_images < least:
        raise ValueError(f"num_images must be at least {least}, got {num_images}")


class TestImagesOf(OODImages):
    """The test images of another data set: SVHN for CIFAR-10, CIFAR-10 for SVHN.

    Args:
        data: the set.
    """

    __test__ = False  # pytest takes the name for a test

    def __init__(self, data: LabelledImages) -> None:
        self.data = data

    def fetch_missing(self) -> None:
        self.data.prepare_data()

    def read(self, image_shape: tuple[int, int, int], seed: int) -> ImageSource:
        if tuple(self.data.image_shape) != tuple(image_shape):
            raise ValueError(
                f"{type(self.data).__name__} has images {list(self.data.image_shape)}, and those in distribution are "
                f"{list(image_shape)}"
            )
        source = self.data.read_test()
        source.label = torch.full_like(source.label, UNKNOWN)
        return source


class ImagesInFolder(OODImages):
    """The images in a folder and its subfolders, in the formats of `ImageFolder`, sorted by name, as RGB.

    Args:
        folder: its name, as `LSUN_resize`.
        data_dir: folder that holds it; None looks where NOISEWORKS_DATA points.
        num_images: the first ones are taken; None takes all.
    """

    def __init__(self, folder: str, data_dir: str | None = None, num_images: int | None = None) -> None:
        _check_number(num_images)
        self.folder = folder
        self.data_dir = data_dir
        self.num_images = num_images

    def read(self, image_shape: tuple[int, int, int], seed: int) -> ImageSource:
        channels, height, width = image_shape
        if channels != 3 or height != width:
            raise ValueError(
                f"{self.folder}: images in folders are read as colour squares, and those in distribution are "
                f"{list(image_shape)}"
            )
        root = Path(data_directory(self.data_dir, self.folder), self.folder)
        if not root.is_dir():
            raise FileNotFoundError(
                f"{self.folder}: {root} does not exist; expected {root / '<image>'} or {root / '<any>' / '<image>'}, "
                f"as the authors of ODIN distribute these sets; set data_dir to the folder that holds {self.folder}"
            )
        names = image_names(root)[: self.num_images]
        if not names:
            raise FileNotFoundError(
                f"{self.folder}: {root} holds no image; expected files that end with {', '.join(SUFFIXES)}"
            )
        return ImageFiles(root, names, torch.full((len(names),), UNKNOWN), Crop(height, height))


class DrawnImages:
    """An `ImageSource` of independent pixels, drawn when they are asked for: each depends on seed and position alone.

    Args:
        label: `[N]`, int64.
        image_shape: C, H, W.
        seed: seeds the pixels.
        normal: mean and deviation of normal pixels, which are clipped to [0, 1]; None draws uniform ones.
    """

    brightest = 255
    num_uniform = 0

    def __init__(
        self, label: Tensor, image_shape: tuple[int, int, int], seed: int, normal: tuple[float, float] | None
    ) -> None:
        self.label = label
        self.image_shape = image_shape
        self.seed = seed
        self.normal = normal

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        channels, height, width = self.image_shape
        value = sample_uniform(self.seed, 0, row, channels * height * width, stream=2)
        if self.normal is not None:
            mean, std = self.normal
            value = (mean + std * torch.special.ndtri(value)).clamp(0, 1)
        return (value * 255).round().to(torch.uint8).view(-1, *self.image_shape)


class UniformNoise(OODImages):
    """Independent pixels, uniform in [0, 1].

    Args:
        num_images: how many.
    """

    def __init__(self, num_images: int = 10_000) -> None:
        _check_number(num_images)
        self.num_images = num_images

    def read(self, image_shape: tuple[int, int, int], seed: int) -> ImageSource:
        return DrawnImages(torch.full((self.num_images,), UNKNOWN), image_shape, seed, None)


class GaussianNoise(OODImages):
    """Independent pixels, normal and clipped to [0, 1].

    Args:
        num_images: how many.
        mean: mean of the noise, in pixel units.
        std: standard deviation of the noise, in pixel units, positive.
    """

    def __init__(self, num_images: int = 10_000, mean: float = 0.5, std: float = 1.0) -> None:
        _check_number(num_images)
        if not std > 0:
            raise ValueError(f"std must be positive, got {std}")
        self.num_images = num_images
        self.normal = (mean, std)

    def read(self, image_shape: tuple[int, int, int], seed: int) -> ImageSource:
        return DrawnImages(torch.full((self.num_images,), UNKNOWN), image_shape, seed, self.normal)


class OtherDigits(OODImages):
    """scikit-learn's digits of some classes, from the whole set, 8 x 8 pixels. No download.

    Args:
        digits: which ones.
    """

    def __init__(self, digits: list[int]) -> None:
        if not digits or not set(digits) <= set(range(10)):
            raise ValueError(f"digits must be some of 0...9, got {digits}")
        self.digits = digits

    def read(self, image_shape: tuple[int, int, int], seed: int) -> ImageSource:
        from sklearn.datasets import load_digits

        if tuple(image_shape) != (1, 8, 8):
            raise ValueError(f"the bundled digits are [1, 8, 8], and those in distribution are {list(image_shape)}")
        digits = load_digits()
        kept = torch.isin(torch.from_numpy(digits.target), torch.tensor(self.digits))
        image = torch.from_numpy(digits.images)[kept][:, None].to(torch.uint8)
        return ImagesInMemory(image, torch.full((len(image),), UNKNOWN), brightest=16)


class PhotographPatches(OODImages):
    """Grey squares of scikit-image's photograph of a cameraman, 512 x 512 pixels, side by side. No download.

    Args:
        num_images: how many, in an order drawn at random; None takes all.
    """

    def __init__(self, num_images: int | None = None) -> None:
        _check_number(num_images)
        self.num_images = num_images

    def read(self, image_shape: tuple[int, int, int], seed: int) -> ImageSource:
        import skimage.data

        channels, height, width = image_shape
        photograph = torch.from_numpy(skimage.data.camera())
        if max(height, width) > min(photograph.shape):
            raise ValueError(
                f"the photograph is {list(photograph.shape)}, and has no patch of the in-distribution images' "
                f"{list(image_shape)}"
            )
        patches = photograph.unfold(0, height, height).unfold(1, width, width).flatten(0, 1)
        order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))[: self.num_images]
        image = patches[order, None].expand(-1, channels, -1, -1).contiguous()
        return ImagesInMemory(image, torch.full((len(image),), UNKNOWN))
