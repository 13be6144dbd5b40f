"""Some of the bundled digits as a data set of their own, so that the other ones are out of distribution."""

from datamodules.corruptions.label_noise import LabelNoise
from datamodules.digits import Digits


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
