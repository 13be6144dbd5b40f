"""Synthetic segmentation dataset with 3 classes: a bright disc and a dark square on bundled photographs."""

import math

import numpy as np
import torch

from datamodules.arguments import at_least, within
from datamodules.segmentation.mask_sets import MaskSet, MasksInMemory

LARGEST_IMAGE = 191
"""Largest allowed image size: the smallest height or width of the photographs, in pixels."""


class Shapes(MaskSet):
    """Grey images of a bright disc (class 1) and a dark square (class 2) on crops of photographs, with Gaussian noise.

    The size, position and contrast of both shapes are random. The photograph is visible through the shapes. If the
    shapes overlap, the square covers the disc. An image depends only on the seed and its index. No image is in more
    than one split.

    Args:
        num_train: number of training images.
        num_val: number of validation images, which have true masks. 0 means no validation.
        num_test: number of test images, which have true masks.
        image_size: height and width of the images, in pixels, from 16 to 191. The size of the shapes is proportional to
            the image size.
        contrast: maximum difference between a shape and the photograph behind it, in (0, 1]. The contrast in an image
            is between 0.5 `contrast` and `contrast`.
        noise_level: standard deviation of the Gaussian noise, for pixel values in [0, 1].
    """

    num_classes = 3
    class_names = ("background", "disc", "square")

    def __init__(
        self,
        num_train: int = 50,
        num_val: int = 0,
        num_test: int = 60,
        image_size: int = 40,
        contrast: float = 0.5,
        noise_level: float = 0.1,
    ) -> None:
        at_least(1, num_train=num_train, num_test=num_test)
        at_least(0, num_val=num_val, noise_level=noise_level)
        within(16, LARGEST_IMAGE, image_size=image_size)  # up to the smallest photograph's height
        within(0, 1, "(]", contrast=contrast)
        self.num_train = num_train
        self.num_val = num_val
        self.num_test = num_test
        self.contrast = contrast
        self.noise_level = noise_level
        self.image_shape = (1, image_size, image_size)

    def training(self) -> MasksInMemory:
        return self._draw(0, self.num_train)

    def validation(self) -> MasksInMemory | None:
        return self._draw(1, self.num_val) if self.num_val else None

    def test(self) -> MasksInMemory:
        return self._draw(2, self.num_test)

    def _draw(self, split: int, count: int) -> MasksInMemory:
        photographs = grey_photographs()
        drawn = [self._image(photographs, np.random.default_rng([self.seed, split, number])) for number in range(count)]
        image, mask = (torch.from_numpy(np.stack(each)) for each in zip(*drawn, strict=True))
        return MasksInMemory(image[:, None], mask, self.num_classes)

    def _image(self, photographs: list[np.ndarray], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size = self.image_shape[1]
        photograph = photographs[random.integers(len(photographs))]
        top, left = (random.integers(side - size + 1) for side in photograph.shape)
        behind = 0.25 + 0.5 * photograph[top : top + size, left : left + size].astype(np.float64) / 255
        image = behind
        row, column = np.mgrid[:size, :size]
        mask = np.zeros((size, size), dtype=np.uint8)
        # Half of a shape's side is between 1/10 and 1/5 of the image's side. Shapes are completely inside the image.
        for category, sign in ((1, 1), (2, -1)):
            reach = random.uniform(0.1, 0.2) * size
            centre = random.uniform(math.ceil(reach), size - 1 - math.ceil(reach), size=2)
            down, right = np.abs(row - centre[0]), np.abs(column - centre[1])
            member = np.hypot(down, right) <= reach if category == 1 else np.maximum(down, right) <= reach
            mask[member] = category
            image = np.where(member, behind + sign * random.uniform(0.5, 1) * self.contrast, image)
        image = image + self.noise_level * random.standard_normal(image.shape)
        return np.rint(image.clip(0, 1) * 255).astype(np.uint8), mask


def grey_photographs() -> list[np.ndarray]:
    """Read the photographs bundled with scikit-image and scikit-learn as uint8 arrays `[H, W]`."""
    import skimage.data
    from skimage.color import rgb2gray
    from sklearn.datasets import load_sample_images

    bundled = [skimage.data.camera(), skimage.data.coins(), skimage.data.page()]
    coloured = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), *load_sample_images().images]
    return [*bundled, *(np.rint(rgb2gray(image) * 255).astype(np.uint8) for image in coloured)]
