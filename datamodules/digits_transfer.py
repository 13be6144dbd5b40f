"""Two stages on the bundled digits, on different images: six classes to pre-train on, all ten to tune on afterwards."""

from datamodules.corruptions.label_noise import LabelNoise
from datamodules.digits import Digits
from datamodules.labelled_images import ImagesInMemory

NUM_PRETRAINING, NUM_TUNING = 600, 400


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

    def _read(self, rows: slice) -> ImagesInMemory:
        images = super()._read(rows)
        kept = images.label < self.num_classes
        return ImagesInMemory(images.image[kept], images.label[kept], images.brightest)


class TuningDigits(Digits):
    """All digits: the 400 after the pre-training images for training, the last 797 for testing.

    Args:
        batch_size: training images of a step over all processes.
        label_noise: what makes training labels wrong; None leaves them.
        seed: of noise and order; None takes `seed_everything`.
    """

    def __init__(self, batch_size: int = 64, label_noise: LabelNoise | None = None, seed: int | None = None) -> None:
        super().__init__(batch_size, label_noise, train_size=NUM_PRETRAINING + NUM_TUNING, seed=seed)

    def read_training(self) -> ImagesInMemory:
        return self._read(slice(NUM_PRETRAINING, self.train_size))
