"""The bundled digits 0 to 4 as a web search would bring them: among them other digits under their labels."""

import torch

from datamodules.corruptions.label_noise import LabelNoise
from datamodules.digits import Digits
from datamodules.foreign_images import ForeignImages
from datamodules.labelled_images import ImagesInMemory, ImageSource
from datamodules.ood_images import UNKNOWN, OODImages

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
