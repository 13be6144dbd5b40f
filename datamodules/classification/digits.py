"""The handwritten digits bundled with scikit-learn: 1,797 grey images of 8 x 8 pixels, 10 classes.

Some of them, for other digits to be out of distribution; with false labels as a web search brings them; and in two
stages, six classes to pre-train on and all ten to tune on.
"""

import torch
import torch.nn.functional as F

from datamodules.classification.foreign_images import ForeignImages
from datamodules.classification.labelled_images import ImagesInMemory, ImageSource, LabelledImages
from datamodules.classification.ood_images import UNKNOWN, OODImages
from datamodules.classification.shifted_tests import ShiftedTests
from datamodules.corruptions.label_noise import LabelNoise


class Digits(LabelledImages):
    """scikit-learn's digits: the first `train_size` for training, the rest for testing. No download.

    Args:
        batch_size: training images of a step over all processes.
        label_noise: what makes training and validation labels wrong; None leaves them.
        train_size: images for training and validation; the other ones test.
        image_size: height and width in pixels; other than 8, images are enlarged bilinearly.
        validation_fraction: part of each class that is held out of training, in [0, 1).
        evaluation_batch_size: images of an evaluation batch over all processes; None takes `batch_size`.
        passes_per_epoch: times that an epoch visits the training set.
        seed: of split, noise and order; None takes `seed_everything`.

    Raises:
        ValueError: if `train_size` leaves no image on one side, or another argument is out of range.
    """

    num_classes = 10
    """Subclasses with fewer keep the images of the first ones alone."""

    def __init__(
        self,
        batch_size: int = 128,
        label_noise: LabelNoise | None = None,
        train_size: int = 1300,
        image_size: int = 8,
        validation_fraction: float = 0.0,
        evaluation_batch_size: int | None = None,
        passes_per_epoch: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            label_noise,
            validation_fraction,
            evaluation_batch_size,
            passes_per_epoch=passes_per_epoch,
            seed=seed,
        )
        if not 0 < train_size < 1797:
            raise ValueError(f"train_size must be in 1...1796, as the digits are 1,797 images, got {train_size}")
        if image_size < 8:
            raise ValueError(f"image_size must be at least 8, the size of the bundled digits, got {image_size}")
        self.train_size = train_size
        self.image_shape = (1, image_size, image_size)

    def read_training(self) -> ImagesInMemory:
        return self._read(slice(None, self.train_size))

    def read_test(self) -> ImagesInMemory:
        return self._read(slice(self.train_size, None))

    def _read(self, rows: slice) -> ImagesInMemory:
        from sklearn.datasets import load_digits

        digits = load_digits()
        label = torch.from_numpy(digits.target[rows]).long()
        kept = label < self.num_classes
        image, label = torch.from_numpy(digits.images[rows])[kept, None], label[kept]
        size = self.image_shape[1]
        if size == 8:
            return ImagesInMemory(image.to(torch.uint8), label, brightest=16)
        enlarged = F.interpolate(image, size=(size, size), mode="bilinear") * (255 / 16)
        return ImagesInMemory(enlarged.round().to(torch.uint8), label)


class FirstDigits(Digits):
    """scikit-learn's digits 0 to `num_classes` - 1: those among the first 1,300 for training, the rest for testing.

    Args:
        num_classes: digits that are kept, in 1...10.
        batch_size: training images of a step over all processes.
        label_noise: what makes training labels wrong; None leaves them.
        evaluation_batch_size: images of an evaluation batch over all processes; None takes `batch_size`.
        seed: seeds noise and order; None takes `seed_everything`.

    Raises:
        ValueError: if `num_classes` is out of range.
    """

    def __init__(
        self,
        num_classes: int = 8,
        batch_size: int = 64,
        label_noise: LabelNoise | None = None,
        evaluation_batch_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, label_noise, evaluation_batch_size=evaluation_batch_size, seed=seed)
        if not 1 <= num_classes <= 10:
            raise ValueError(f"num_classes must be in 1...10, got {num_classes}")
        self.num_classes = num_classes


NUM_CLASSES = 5


class LaterDigits(OODImages):
    """scikit-learn's digits 5 to 9 among the first 1,300."""

    def read(self, image_shape: tuple[int, int, int], seed: int) -> ImageSource:
        digits = Digits(image_size=image_shape[1]).read_training()
        image = digits.image[digits.label >= NUM_CLASSES]
        return ImagesInMemory(image, torch.full((len(image),), UNKNOWN), digits.brightest)


class WebDigits(Digits):
    """scikit-learn's digits 0 to 4; training images are replaced by digits 5 to 9 in part. No download.

    Args:
        batch_size: training images of a step over all processes.
        foreign_rate: share of the training images that are replaced, in [0, 1).
        label_noise: what makes labels wrong on top of it; None leaves them.
        evaluation_batch_size: images of an evaluation batch over all processes; None takes `batch_size`.
        passes_per_epoch: times that an epoch visits the training set.
        seed: of noise and order; None takes `seed_everything`.

    Raises:
        ValueError: if an argument is out of range.
    """

    num_classes = NUM_CLASSES

    def __init__(
        self,
        batch_size: int = 64,
        foreign_rate: float = 0.4,
        label_noise: LabelNoise | None = None,
        evaluation_batch_size: int | None = None,
        passes_per_epoch: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            label_noise,
            evaluation_batch_size=evaluation_batch_size,
            passes_per_epoch=passes_per_epoch,
            seed=seed,
        )
        self.foreign_images = ForeignImages(LaterDigits(), foreign_rate)

    def read_training(self) -> ImagesInMemory:
        return self.foreign_images.apply(super().read_training(), self.seed)


NUM_PRETRAINING, NUM_TUNING = 600, 400
SIGMA = 0.2
DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Up, down, left and right, in pixels."""


class PretrainingDigits(Digits):
    """The digits 0 to 5 among the first 600 of scikit-learn's 1,797; those among the rest test.

    Args:
        batch_size: training images of a step over all processes.
        label_noise: what makes training labels wrong; None leaves them.
        seed: of noise and order; None takes `seed_everything`.
    """

    num_classes = 6

    def __init__(self, batch_size: int = 64, label_noise: LabelNoise | None = None, seed: int | None = None) -> None:
        super().__init__(batch_size, label_noise, train_size=NUM_PRETRAINING, seed=seed)


class TuningDigits(ShiftedTests, Digits):
    """All digits: the 400 after the pre-training images for training, the last 797 for testing.

    The shifted test set, `moved_noisy`, has each test image moved by one pixel up, down, left or right, and Gaussian
    noise of standard deviation 0.2 (clipped to [0, 1]); it is the same for all seeds.

    Args:
        batch_size: training images of a step over all processes.
        label_noise: what makes training labels wrong; None leaves them.
        seed: of noise and order; None takes `seed_everything`.
    """

    def __init__(self, batch_size: int = 64, label_noise: LabelNoise | None = None, seed: int | None = None) -> None:
        super().__init__(batch_size, label_noise, train_size=NUM_PRETRAINING + NUM_TUNING, seed=seed)

    def read_training(self) -> ImagesInMemory:
        return self._read(slice(NUM_PRETRAINING, self.train_size))

    def read_shifted_tests(self) -> dict[str, ImageSource]:
        test = self.read_test()
        random = torch.Generator().manual_seed(0)
        count, brightest = len(test.label), test.brightest
        moves = torch.tensor(DIRECTIONS)[torch.randint(0, len(DIRECTIONS), (count,), generator=random)]
        padded = torch.nn.functional.pad(test.image.float() / brightest, [1] * 4)
        size = test.image.shape[-1]
        moved = torch.stack(
            [
                image[:, 1 + down : 1 + down + size, 1 + right : 1 + right + size]
                for image, (down, right) in zip(padded, moves.tolist(), strict=True)
            ]
        )
        noisy = (moved + SIGMA * torch.randn(moved.shape, generator=random)).clamp(0, 1)
        stored = (noisy * brightest).round().to(torch.uint8)
        return {"moved_noisy": ImagesInMemory(stored, test.label, brightest)}
