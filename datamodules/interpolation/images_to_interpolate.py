"""DataModule for image pairs to interpolate between, and for single training images."""

from typing import Any

import torch
from torch import Tensor

from datamodules.classification.labelled_set import LabelledSet
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.interpolation.end_points import EndPoints
from datamodules.loading import Loading
from datamodules.loading.seeded_batches import SeededBatches
from datamodules.randomness.counter import CounterRNG


class ImagesToInterpolate(SeededBatches):
    """DataModule with image pairs for testing and prediction, and single images for training if the dataset has any.

    Args:
        images: dataset of image pairs.
        noise: noise that is added to both images of a pair, without clipping. Training images stay clean. None means no
            noise.
        batch_size: global training batch size, over all ranks.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        images: EndPoints,
        noise: ImageNoise | None = None,
        batch_size: int = 128,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, loading)
        self.images = images
        self.image_shape = images.image_shape
        self.noise = noise

    def prepare_data(self) -> None:
        self.images.fetch_missing()

    def set_up_training(self) -> None:
        source = self.images.training()
        if source is None:
            raise ValueError(f"{type(self.images).__name__} has only pairs and no training images: use predict or test")
        self.train_set = LabelledSet(source)

    def set_up_test(self) -> None:
        self.test_set = self.images.pairs(self.seed)

    def training_images(self) -> tuple[Tensor, int] | None:
        """Return all stored training images, `[N, C, H, W]`, and their `data_range`, or None if there are none."""
        source = self.images.training()
        return None if source is None else (source.fetch(torch.arange(len(source.label)), None), source.data_range)

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        data_range = batch.pop("data_range")
        for key in ("image", "first", "second"):
            if key in batch:
                batch[key] = self.in_unit_interval(batch[key], data_range)
        if self.noise is not None and "first" in batch:
            numbers = CounterRNG(self.seed, 0, batch["index"])  # the second image continues the sequence
            for key in ("first", "second"):
                batch[key] = self.noise.sample(batch[key], numbers)
        return batch
