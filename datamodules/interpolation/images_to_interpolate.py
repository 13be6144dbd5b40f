"""Batches of image pairs, and of the images that a model of them is trained on."""

from typing import Any

import torch
from torch import Tensor

from datamodules.classification.labelled_set import LabelledSet
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.interpolation.end_points import EndPoints
from datamodules.loading.seeded_batches import SeededBatches
from datamodules.randomness.counter import CounterRNG


class ImagesToInterpolate(SeededBatches):
    """Loaders of image pairs to test and predict, and of single images to train on, where the set has these.

    Args:
        images: the set: `PairsOfOneClass` of a set of labelled images, or `PairsInFolder`.
        noise: added to both images of a pair, which are not clipped; images of training stay clean. None adds none.
        batch_size: images of a training step over all processes.
        evaluation_batch_size: pairs of a test or prediction batch over all processes; None takes `batch_size`.
        num_workers: loader processes; None takes one for each free core, up to 8, and none for images in memory.
        seed: random seed of order, pairs and noise; None takes `seed_everything`.

    Raises:
        ValueError: if an argument is out of range; in `fit`, if the set has pairs alone.
    """

    def __init__(
        self,
        images: EndPoints,
        noise: ImageNoise | None = None,
        batch_size: int = 128,
        evaluation_batch_size: int | None = None,
        num_workers: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, evaluation_batch_size, num_workers=num_workers, seed=seed)
        self.images = images
        self.image_shape = images.image_shape
        self.noise = noise

    def set_up_training(self) -> None:
        source = self.images.training()
        if source is None:
            raise ValueError(
                f"{type(self.images).__name__} has pairs alone, and nothing to train on: use predict or test"
            )
        self.train_set = LabelledSet(source)

    def set_up_test(self) -> None:
        self.test_set = self.images.pairs(self.seed)

    def training_images(self) -> tuple[Tensor, int] | None:
        """Give all training images, `[N, C, H, W]` as stored, and the stored value for 1; None of a set without any."""
        source = self.images.training()
        return None if source is None else (source.fetch(torch.arange(len(source.label)), None), source.data_range)

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        data_range = batch.pop("data_range")
        for key in ("image", "first", "second"):
            if key in batch:
                batch[key] = self.in_unit_interval(batch[key], data_range)
        if self.noise is not None and "first" in batch:
            numbers = CounterRNG(self.seed, 0, batch["index"])  # of the second image they go on
            for key in ("first", "second"):
                batch[key] = self.noise.sample(batch[key], numbers)
        return batch
