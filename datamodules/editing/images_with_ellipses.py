"""Images of any classification dataset, with masks of elliptic regions that an editor keeps."""

from typing import Any

import torch
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.classification.image_sets import ImageSet, ImageSource
from datamodules.editing.protected_set import ProtectedSet
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import RequestedSet
from datamodules.randomness.counter import sample_uniform
from datamodules.segmentation.ellipses import ellipse_masks


class ImagesWithEllipses(ProtectedSet):
    """Square images with two elliptic regions.

    Each image has an elliptic region to protect, and a second ellipse near this region.

    Training batches are used to train an inpainting model, and their regions are sampled anew in every epoch. In
    testing, each image is edited twice. In the first edit, the editor keeps the protected region. In the second edit,
    the editor keeps the second ellipse, which the protection does not know.

    Args:
        images: any dataset of labelled images, such as `Digits(image_size=16)`. The labels are ignored.
        unseen_change: largest difference between the two ellipses, as a fraction, in [0, 1], of the ranges of position,
            size and angle.
        num_test_images: number of test images to use, starting with the first image. Use a small number for slow
            methods. None means all images.
    """

    def __init__(self, images: ImageSet, unseen_change: float = 0.3, num_test_images: int | None = None) -> None:
        within(0, 1, unseen_change=unseen_change)
        at_least(1, num_test_images=num_test_images)
        if images.image_shape[-2] != images.image_shape[-1]:
            raise ValueError(f"images must be square, but those of {type(images).__name__} are {images.image_shape}")
        self.images = images
        self.image_shape = tuple(images.image_shape)
        self.unseen_change = unseen_change
        self.num_test_images = num_test_images

    def fetch_missing(self) -> None:
        self.images.fetch_missing()

    def training(self, seed: int) -> RequestedSet:
        return _WithEllipses(self, self.images.training(), seed, drawn_anew=True)

    def test(self, seed: int, with_prompts: bool) -> RequestedSet:
        return _WithEllipses(self, self.images.test(), seed, drawn_anew=False)


class _WithEllipses:
    """The images of one split with their ellipses. The name of an image is its position in the split."""

    in_memory = True

    def __init__(self, images: ImagesWithEllipses, source: ImageSource, seed: int, drawn_anew: bool) -> None:
        self.images = images
        self.source = source
        self.seed = seed
        self.drawn_anew = drawn_anew

    def __len__(self) -> int:
        number = len(self.source.label)
        return number if self.drawn_anew else min(number, self.images.num_test_images or number)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        index = request.indices
        batch: dict[str, Any] = {
            "image": self.source.fetch(index, None),
            "data_range": self.source.data_range,
            "prompt": [[""] for _ in index],
            "name": [f"{position:05d}" for position in index.tolist()],
            "index": index,
            "global_batch_size": request.global_batch_size,
        }
        if self.drawn_anew:
            batch["regions"] = self._ellipses(sample_uniform(self.seed, request.epoch, index, count=5, stream=3))
            return batch
        seen, change = sample_uniform(self.seed, 0, index, count=10, stream=4).split(5, dim=1)
        unseen = (seen + self.images.unseen_change * (change - 0.5)).clamp(0, 1)
        batch["regions"] = self._ellipses(seen)
        batch["editor_keeps"] = torch.cat([batch["regions"], self._ellipses(unseen)], dim=1)
        return batch

    def _ellipses(self, uniform: Tensor) -> Tensor:
        size = self.images.image_shape[-1]
        return ellipse_masks(uniform, size, semi_axis=(0.25, 0.4), ratio=(0.6, 1.0), centre=0.4).bool()[:, None]
