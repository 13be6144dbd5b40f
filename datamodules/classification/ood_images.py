"""Out-of-distribution images, for detection at test time or as label noise in training.

The test images of any dataset can also be used as out-of-distribution images for a different dataset, such as SVHN for
CIFAR-10.

The commonly used sets come from the authors of ODIN: images resized or cropped to 32 x 32 pixels, in folders such as
`Imagenet_resize`, `LSUN_resize` and `iSUN`.

Source of these sets and of the noise: Liang, Li and Srikant, Enhancing the Reliability of Out-of-distribution Image
Detection in Neural Networks, ICLR 2018, arXiv 1706.02690.
"""

from pathlib import Path

import torch
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.classification.image_sets import UNKNOWN, ImageFiles, ImagesInMemory, ImageSource, OtherImages
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import SUFFIXES, Crop, image_names
from datamodules.randomness.counter import sample_uniform


class ImagesInFolder(OtherImages):
    """RGB images in a folder and its subfolders, sorted by name, in the formats of `ImageFolder`.

    Args:
        folder: name of the folder, such as `LSUN_resize`.
        data_dir: folder that contains `folder`. None means the NOISEWORKS_DATA directory.
        num_images: number of images to use, counted from the first image. None means all images.
    """

    def __init__(self, folder: str, data_dir: str | None = None, num_images: int | None = None) -> None:
        at_least(1, num_images=num_images)
        self.folder = folder
        self.data_dir = data_dir
        self.num_images = num_images

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImageSource:
        channels, height, width = image_shape
        if channels != 3 or height != width:
            raise ValueError(
                f"{self.folder}: images in folders are read as square RGB images, but the in-distribution images are "
                f"{list(image_shape)}"
            )
        root = Path(data_directory(self.data_dir, self.folder), self.folder)
        if not root.is_dir():
            raise FileNotFoundError(
                f"{self.folder}: {root} does not exist; expected {root / '<image>'} or {root / '<any>' / '<image>'}, "
                f"as the authors of ODIN distribute these sets; set data_dir to the folder that contains {self.folder}"
            )
        names = image_names(root)[: self.num_images]
        if not names:
            raise FileNotFoundError(
                f"{self.folder}: {root} has no image; expected files that end with {', '.join(SUFFIXES)}"
            )
        return ImageFiles(root, names, torch.full((len(names),), UNKNOWN), Crop(height, height))


class DrawnImages(ImageSource):
    """Random images whose pixels are independent and uniform.

    Each image is generated on access from the seed and the position of the image.

    Args:
        num_images: number of images.
        image_shape: shape of an image: C, H, W.
        seed: seed of the pixels.
    """

    in_memory = True

    def __init__(self, num_images: int, image_shape: tuple[int, ...], seed: int) -> None:
        self.label = torch.full((num_images,), UNKNOWN)
        self.image_shape = image_shape
        self.seed = seed

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        channels, height, width = self.image_shape
        value = sample_uniform(self.seed, 0, row, channels * height * width, stream=2)
        return (value * 255).round().to(torch.uint8).view(-1, *self.image_shape)


class UniformNoise(OtherImages):
    """Random images whose pixels are independent and uniform in [0, 1].

    Args:
        num_images: number of images.
    """

    def __init__(self, num_images: int = 10_000) -> None:
        at_least(1, num_images=num_images)
        self.num_images = num_images

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImageSource:
        return DrawnImages(self.num_images, image_shape, seed)


class OtherDigits(OtherImages):
    """Images of selected classes of scikit-learn's digits, 8 x 8 pixels, from its training and test part.

    No download is required.

    Args:
        digits: selected classes.
    """

    def __init__(self, digits: list[int]) -> None:
        if not digits or not set(digits) <= set(range(10)):
            raise ValueError(f"digits must list some of the digits 0...9, got {digits}")
        self.digits = digits

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImageSource:
        from sklearn.datasets import load_digits

        if tuple(image_shape) != (1, 8, 8):
            raise ValueError(f"the bundled digits are [1, 8, 8], but in-distribution images are {list(image_shape)}")
        digits = load_digits()
        kept = torch.isin(torch.from_numpy(digits.target), torch.tensor(self.digits))
        image = torch.from_numpy(digits.images)[kept][:, None].to(torch.uint8)
        return ImagesInMemory(image, torch.full((len(image),), UNKNOWN), data_range=16)


class PhotographPatches(OtherImages):
    """Adjacent patches of scikit-image's grey photograph of a cameraman (512 x 512 pixels).

    No download is required.

    Args:
        num_images: number of patches, in random order. None means all patches.
    """

    def __init__(self, num_images: int | None = None) -> None:
        at_least(1, num_images=num_images)
        self.num_images = num_images

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImageSource:
        import skimage.data

        channels, height, width = image_shape
        photograph = torch.from_numpy(skimage.data.camera())
        if max(height, width) > min(photograph.shape):
            raise ValueError(
                f"the photograph has {list(photograph.shape)} pixels, which is too small for patches of the shape "
                f"{list(image_shape)} of in-distribution images"
            )
        patches = photograph.unfold(0, height, height).unfold(1, width, width).flatten(0, 1)
        order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))[: self.num_images]
        image = patches[order, None].expand(-1, channels, -1, -1).contiguous()
        return ImagesInMemory(image, torch.full((len(image),), UNKNOWN))
