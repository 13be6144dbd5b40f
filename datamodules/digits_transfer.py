"""Two stages on the bundled digits, on different images: six classes to pre-train on, all ten to tune on afterwards."""

import torch

from datamodules.corruptions.label_noise import LabelNoise
from datamodules.digits import Digits
from datamodules.labelled_images import ImagesInMemory, ImageSource
from datamodules.shifted_tests import ShiftedTests

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
