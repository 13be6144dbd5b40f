"""Bright ellipses on a textured background: a bundled set for segmentation without annotated images."""

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.augmentation import sample_uniform
from datamodules.segmentation.auxiliary_masks import ImagesWithAuxiliaryMasks, no_labels
from datamodules.segmentation.ellipses import EllipseShapes, ellipse_masks
from datamodules.segmentation.labelled_masks import MasksInMemory


def textured_images(mask: Tensor, seed: int) -> Tensor:
    """Grey images of the masked structure on a ground of the same texture, brighter by 0.2 to 0.4.

    Args:
        mask: `[N, S, S]`, 0 and 1.
        seed: of texture, brightness and noise.

    Returns:
        `[N, 1, S, S]`, uint8.
    """
    from scipy import ndimage

    random = np.random.default_rng([seed, 4])
    number, size, _ = mask.shape
    texture = np.zeros(mask.shape)
    for scale, strength in ((size / 8, 0.06), (size / 24, 0.04)):
        rough = ndimage.gaussian_filter(random.standard_normal(mask.shape), (0, scale, scale), mode="wrap")
        texture += strength * rough / rough.std(axis=(1, 2), keepdims=True)
    ground = random.uniform(0.25, 0.45, (number, 1, 1))
    brighter = random.uniform(0.2, 0.4, (number, 1, 1))
    edge = ndimage.gaussian_filter(mask.numpy().astype(float), (0, size / 64, size / 64))
    image = ground + brighter * edge + texture + 0.03 * random.standard_normal(mask.shape)
    return torch.from_numpy((255 * image.clip(0, 1)).round().astype(np.uint8))[:, None]


class EllipseImages(ImagesWithAuxiliaryMasks):
    """Images of one bright ellipse each, and ellipses of the same distribution that belong to none of them.

    The training images' true masks are known, as `clean_label`, for metrics only. Everything is drawn from the seed.

    Args:
        batch_size: training images of a step over all processes.
        image_size: height and width in pixels.
        num_training: training images.
        num_validation: images with true masks, to watch training by.
        num_test: images with true masks.
        shapes: of structures and auxiliary masks; its number is that of the auxiliary masks.
        evaluation_batch_size: images of an evaluation batch over all processes; None takes `batch_size`.
        seed: of images, masks and order; None takes `seed_everything`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        batch_size: int = 8,
        image_size: int = 32,
        num_training: int = 200,
        num_validation: int = 40,
        num_test: int = 200,
        shapes: EllipseShapes | None = None,
        evaluation_batch_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, evaluation_batch_size=evaluation_batch_size, seed=seed)
        for key, value, least in (
            *(("image_size", image_size, 8), ("num_training", num_training, 1)),
            *(("num_validation", num_validation, 0), ("num_test", num_test, 1)),
        ):
            if value < least:
                raise ValueError(f"{key} must be at least {least}, got {value}")
        self.image_shape = (1, image_size, image_size)
        self.num_training = num_training
        self.num_validation = num_validation
        self.num_test = num_test
        self.shapes: EllipseShapes = shapes or EllipseShapes()

    def read_training(self) -> MasksInMemory:
        image, truth = self._drawn(0, self.num_training)
        return MasksInMemory(image, no_labels(*truth.shape[:2]), self.num_classes, clean=truth)

    def read_validation(self) -> MasksInMemory | None:
        return MasksInMemory(*self._drawn(1, self.num_validation), self.num_classes) if self.num_validation else None

    def read_test(self) -> MasksInMemory:
        return MasksInMemory(*self._drawn(2, self.num_test), self.num_classes)

    def _drawn(self, split: int, number: int) -> tuple[Tensor, Tensor]:
        """Images and their masks; no image shows an auxiliary mask, which are drawn from another stream."""
        uniform = sample_uniform(self.seed, split, torch.arange(number), count=5, stream=4)
        size, shapes = self.image_shape[1], self.shapes
        mask = ellipse_masks(uniform, size, shapes.semi_axis, shapes.ratio, shapes.centre)
        return textured_images(mask, 3 * self.seed + split), mask
