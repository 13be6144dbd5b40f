"""The handwritten digits bundled with scikit-learn: 1,797 grey images of 8 x 8 pixels, 10 classes."""

import torch
import torch.nn.functional as F

from datamodules.corruptions.label_noise import LabelNoise
from datamodules.labelled_images import ImagesInMemory, LabelledImages


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
