"""A bright disc and a dark square on photographs: a synthetic set for segmentation, 3 categories, no download."""

import math

import numpy as np
import torch
from torch import Tensor

from datamodules.corruptions.mask_noise import MaskNoise
from datamodules.segmentation.labelled_masks import LabelledMasks, MasksInMemory

LARGEST_IMAGE = 191
"""No photograph is lower or narrower, in pixels."""


class Shapes(LabelledMasks):
    """Grey images with a disc (category 1) that is brighter and a square (category 2) that is darker than what is
    behind: a piece of a photograph bundled with scikit-image and scikit-learn, and Gaussian noise.

    Radius, half side and place of the two are random, and so are how much brighter and darker they are; the photograph
    shows through. The square covers the disc where they meet. An image is a function of (seed, its number), and no two
    images of training, validation and test are the same.

    Args:
        batch_size: training images of a step over all processes.
        mask_noise: what makes training masks wrong; None leaves them.
        num_train: images for training.
        num_val: images for validation, with true masks; 0 leaves it out.
        num_test: images for testing, with true masks.
        image_size: height and width in pixels, 16 to 191; shapes grow with it.
        contrast: by how much shapes differ from what is behind them, in (0, 1]; each image's is between half of it and
            this.
        noise_level: standard deviation of the Gaussian noise, in pixel units.
        evaluation_batch_size: images of an evaluation batch over all processes; None takes `batch_size`.
        seed: of images, mask noise and order; None takes `seed_everything`.

    Raises:
        ValueError: if an argument is out of range.
    """

    num_classes = 3
    class_names = ["background", "disc", "square"]  # noqa: RUF012 (as its base declares it)

    def __init__(
        self,
        batch_size: int = 10,
        mask_noise: MaskNoise | None = None,
        num_train: int = 50,
        num_val: int = 0,
        num_test: int = 60,
        image_size: int = 40,
        contrast: float = 0.5,
        noise_level: float = 0.1,
        evaluation_batch_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, mask_noise, evaluation_batch_size, seed=seed)
        for key, value, least in (
            ("num_train", num_train, 1),
            ("num_val", num_val, 0),
            ("num_test", num_test, 1),
            ("image_size", image_size, 16),
        ):
            if value < least:
                raise ValueError(f"{key} must be at least {least}, got {value}")
        if image_size > LARGEST_IMAGE:
            raise ValueError(
                f"image_size must be at most {LARGEST_IMAGE}, the height of the smallest photograph, got {image_size}"
            )
        if not 0 < contrast <= 1:
            raise ValueError(f"contrast must be in (0, 1], got {contrast}")
        if noise_level < 0:
            raise ValueError(f"noise_level must be at least 0, got {noise_level}")
        self.num_train = num_train
        self.num_val = num_val
        self.num_test = num_test
        self.contrast = contrast
        self.noise_level = noise_level
        self.image_shape = (1, image_size, image_size)

    def read_training(self) -> MasksInMemory:
        image, clean = self._drawn(0, self.num_train)
        if self.mask_noise is None:
            return MasksInMemory(image, clean, self.num_classes)
        given = self.mask_noise.apply(clean, self.num_classes)
        return MasksInMemory(image, given, self.num_classes, clean)

    def read_validation(self) -> MasksInMemory | None:
        return MasksInMemory(*self._drawn(1, self.num_val), self.num_classes) if self.num_val else None

    def read_test(self) -> MasksInMemory:
        return MasksInMemory(*self._drawn(2, self.num_test), self.num_classes)

    def _drawn(self, split: int, count: int) -> tuple[Tensor, Tensor]:
        """Images `[count, 1, H, W]` and masks `[count, H, W]`, both uint8."""
        photographs = grey_photographs()
        drawn = [self._image(photographs, np.random.default_rng([self.seed, split, number])) for number in range(count)]
        image, mask = zip(*drawn, strict=True)
        return torch.from_numpy(np.stack(image))[:, None], torch.from_numpy(np.stack(mask))

    def _image(self, photographs: list[np.ndarray], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size = self.image_shape[1]
        photograph = photographs[random.integers(len(photographs))]
        top, left = (random.integers(side - size + 1) for side in photograph.shape)
        behind = 0.25 + 0.5 * photograph[top : top + size, left : left + size].astype(np.float64) / 255
        image = behind
        row, column = np.mgrid[:size, :size]
        mask = np.zeros((size, size), dtype=np.uint8)
        # Half of a shape's side is a tenth to a fifth of the image's; all of it is inside.
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
    """Photographs that come with scikit-image and scikit-learn, `[H, W]` each, uint8."""
    import skimage.data
    from skimage.color import rgb2gray
    from sklearn.datasets import load_sample_images

    bundled = [skimage.data.camera(), skimage.data.coins(), skimage.data.page()]
    coloured = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), *load_sample_images().images]
    return [*bundled, *(np.rint(rgb2gray(image) * 255).astype(np.uint8) for image in coloured)]
