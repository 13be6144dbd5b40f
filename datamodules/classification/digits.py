"""The handwritten digits bundled with scikit-learn: 1,797 grey images of 8 x 8 pixels, 10 classes."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F

from datamodules.arguments import at_least, within
from datamodules.classification.image_sets import ImageSet, ImagesInMemory, ImageSource

SIGMA = 0.2
DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Up, down, left and right, in pixels."""


@functools.cache
def bundled_digits() -> Any:
    """Read the digits of scikit-learn.

    The result is cached per process and must not be modified.
    """
    from sklearn.datasets import load_digits

    return load_digits()


class Digits(ImageSet):
    """scikit-learn's digits. The first `train_size` images are for training, and the others are for testing.

    No download is required.

    Args:
        train_size: number of training and validation images, in 1...1796. All other images are for testing.
        image_size: height and width of the images, in pixels. If `image_size` is not 8, images are resized bilinearly.
        num_classes: number of classes, in 1...10. Only the digits 0 ... `num_classes` - 1 are kept.
    """

    def __init__(self, train_size: int = 1300, image_size: int = 8, num_classes: int = 10) -> None:
        within(1, 1796, train_size=train_size)
        at_least(8, image_size=image_size)
        within(1, 10, num_classes=num_classes)
        self.train_size = train_size
        self.num_classes = num_classes
        self.image_shape = (1, image_size, image_size)

    def training(self) -> ImagesInMemory:
        return self._read(slice(None, self.train_size))

    def test(self) -> ImagesInMemory:
        return self._read(slice(self.train_size, None))

    def _read(self, rows: slice) -> ImagesInMemory:
        digits = bundled_digits()
        label = torch.from_numpy(digits.target[rows]).long()
        kept = label < self.num_classes
        image, label = torch.from_numpy(digits.images[rows])[kept, None], label[kept]
        size = self.image_shape[1]
        if size == 8:
            return ImagesInMemory(image.to(torch.uint8), label, data_range=16)
        enlarged = F.interpolate(image, size=(size, size), mode="bilinear") * (255 / 16)
        return ImagesInMemory(enlarged.round().to(torch.uint8), label)


class ColouredDigits(Digits):
    """Digits in a colour for each class, `[3, 8, 8]`: channel j of digit k is x (1 + cos(2 pi (k / 10 + j / 3))) / 2.

    Here, x is the grey image. The mean of the three channels is x / 2 for every class. Therefore, if the channels are
    averaged, only the shape of a digit reveals its class.

    Args:
        train_size: number of training and validation images, in 1...1796. All other images are for testing.
    """

    def __init__(self, train_size: int = 1300) -> None:
        super().__init__(train_size)
        self.image_shape = (3, 8, 8)

    def _read(self, rows: slice) -> ImagesInMemory:
        digits = bundled_digits()
        label = torch.from_numpy(digits.target[rows]).long()
        angle = 2 * math.pi * (label[:, None] / self.num_classes + torch.arange(3) / 3)
        colour = (1 + angle.cos())[:, :, None, None] / 2
        coloured = colour * torch.from_numpy(digits.images[rows])[:, None] * (255 / 16)
        return ImagesInMemory(coloured.round().to(torch.uint8), label)


class PretrainingDigits(Digits):
    """The digits 0 to 5. The first 600 of scikit-learn's 1,797 images are for training, the rest for testing."""

    def __init__(self) -> None:
        super().__init__(train_size=600, num_classes=6)


class TuningDigits(Digits):
    """All ten digits, without the training images of `PretrainingDigits`.

    Images 601 to 1,000 of the set are used for training, and the last 797 images are used for testing.

    In the shifted test set `moved_noisy`, each test image is moved by one pixel in a random direction: up, down, left
    or right. Then Gaussian noise with standard deviation 0.2 is added, and the image is clipped to [0, 1]. This shifted
    test set does not depend on the seed.
    """

    def __init__(self) -> None:
        super().__init__(train_size=1000)

    def training(self) -> ImagesInMemory:
        return self._read(slice(600, self.train_size))

    def ood_test_sets(self) -> dict[str, ImageSource]:
        test = self.test()
        random = torch.Generator().manual_seed(0)
        count, data_range = len(test.label), test.data_range
        moves = torch.tensor(DIRECTIONS)[torch.randint(0, len(DIRECTIONS), (count,), generator=random)]
        padded = F.pad(test.image.float() / data_range, [1] * 4)
        size = test.image.shape[-1]
        moved = torch.stack(
            [
                image[:, 1 + down : 1 + down + size, 1 + right : 1 + right + size]
                for image, (down, right) in zip(padded, moves.tolist(), strict=True)
            ]
        )
        noisy = (moved + SIGMA * torch.randn(moved.shape, generator=random)).clamp(0, 1)
        stored = (noisy * data_range).round().to(torch.uint8)
        return {"moved_noisy": ImagesInMemory(stored, test.label, data_range)}
