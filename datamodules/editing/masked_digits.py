"""Digits with elliptic regions that an editor keeps."""

from typing import Any

import torch
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import ImagesInMemory
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading.augmentation import sample_uniform
from datamodules.segmentation.ellipses import ellipse_masks


class FirstTested(Digits):
    """Digits of which only the first test images are taken."""

    num_test_images: int | None = None

    def test(self) -> ImagesInMemory:
        source = super().test()
        return ImagesInMemory(
            source.image[: self.num_test_images], source.label[: self.num_test_images], source.brightest
        )


class MaskedDigits(LabelledImages):
    """Scikit-learn's digits, each with one elliptic region to protect, and a second ellipse near it.

    Training batches, which a model that repaints is trained on, draw their regions anew in every epoch. In testing the
    editor keeps the region itself first, and then the second ellipse, which protection does not know.

    Args:
        batch_size: training images of a step over all processes.
        image_size: height and width in pixels, to which the images are enlarged.
        unseen_change: greatest distance of the second ellipse's place, size and angle from the first one's, as a part
            of their range, in [0, 1].
        evaluation_batch_size: images of an evaluation batch over all processes; None takes `batch_size`.
        num_test_images: number of test images, the first ones, for methods that spend long on each; None takes all.
        seed: random seed of regions and order; None takes `seed_everything`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        batch_size: int = 64,
        image_size: int = 16,
        unseen_change: float = 0.3,
        evaluation_batch_size: int | None = None,
        num_test_images: int | None = None,
        seed: int | None = None,
    ) -> None:
        images = FirstTested(image_size=image_size)
        images.num_test_images = num_test_images
        super().__init__(images, batch_size, evaluation_batch_size=evaluation_batch_size, seed=seed)
        within(0, 1, unseen_change=unseen_change)
        at_least(1, num_test_images=num_test_images)
        self.unseen_change = unseen_change

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Name the digits by their positions while these are still on the host."""
        batch["name"] = [f"{index:05d}" for index in batch["index"].tolist()]
        return batch

    def augmented(self, batch: dict[str, Any], visit: int) -> dict[str, Any]:
        batch = super().augmented(batch, visit)
        batch["regions"] = self._ellipses(sample_uniform(self.seed, visit, batch["index"], count=5, stream=3))[:, None]
        return batch

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = super().finished(batch)
        index = batch["index"]
        if "regions" not in batch:
            seen, change = sample_uniform(self.seed, 0, index, count=10, stream=4).split(5, dim=1)
            unseen = (seen + self.unseen_change * (change - 0.5)).clamp(0, 1)
            batch["regions"] = self._ellipses(seen)[:, None]
            batch["editor_keeps"] = torch.cat([batch["regions"], self._ellipses(unseen)[:, None]], dim=1)
        batch["prompt"] = [[""] for _ in index]
        return batch

    def _ellipses(self, uniform: Tensor) -> Tensor:
        return ellipse_masks(uniform, self.image_shape[1], semi_axis=(0.25, 0.4), ratio=(0.6, 1.0), centre=0.4).bool()
