"""Synthetic dataset for segmentation without annotated training images: bright ellipses on a textured background."""

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.randomness.counter import sample_uniform
from datamodules.segmentation.ellipses import Ellipses, ellipse_masks
from datamodules.segmentation.mask_sets import MaskSet, MasksInMemory, no_labels


def textured_images(mask: Tensor, seed: int) -> Tensor:
    """Render textured grey images in which the masked structure is brighter than the background by 0.2 to 0.4.

    Args:
        mask: masks of the structure, `[N, S, S]`, 0 or 1.
        seed: seed of the texture, the brightness and the noise.

    Returns:
        Images `[N, 1, S, S]`, uint8.
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


class EllipseImages(MaskSet):
    """Dataset of unlabelled training images with one bright ellipse each, and of unpaired masks of ellipses.

    Batches contain the true masks of training images as `clean_label`, which is used only for metrics. Images and masks
    depend only on the seed.

    Args:
        image_size: height and width of the images, in pixels, at least 8.
        num_training: number of training images.
        num_validation: number of validation images, which have true masks.
        num_test: number of test images, which have true masks.
        shapes: shape model of the structures and the auxiliary masks. It also sets the number of auxiliary masks. None
            means `Ellipses()`.
        annotated: whether training batches contain the true masks as labels. Use it to train a supervised network as an
            upper bound.
    """

    num_classes = 2
    class_names = ("background", "structure")
    has_training_labels = False

    def __init__(
        self,
        image_size: int = 32,
        num_training: int = 200,
        num_validation: int = 40,
        num_test: int = 200,
        shapes: Ellipses | None = None,
        annotated: bool = False,
    ) -> None:
        at_least(8, image_size=image_size)
        at_least(1, num_training=num_training, num_test=num_test)
        at_least(0, num_validation=num_validation)
        self.image_shape = (1, image_size, image_size)
        self.num_training = num_training
        self.num_validation = num_validation
        self.num_test = num_test
        self.shapes = shapes or Ellipses()
        self.has_training_labels = annotated

    def training(self) -> MasksInMemory:
        drawn = self._draw(0, self.num_training)
        if self.has_training_labels:
            return drawn
        return MasksInMemory(drawn.image, no_labels(*drawn.given.shape[:2]), self.num_classes, clean=drawn.given)

    def validation(self) -> MasksInMemory | None:
        return self._draw(1, self.num_validation) if self.num_validation else None

    def test(self) -> MasksInMemory:
        return self._draw(2, self.num_test)

    def auxiliary_masks(self) -> Ellipses:
        return self.shapes

    def _draw(self, split: int, number: int) -> MasksInMemory:
        """Sample images with masks. Auxiliary masks use a different random stream and thus differ from these masks."""
        uniform = sample_uniform(self.seed, split, torch.arange(number), count=5, stream=4)
        shapes = self.shapes
        mask = ellipse_masks(uniform, self.image_shape[1], shapes.semi_axis, shapes.ratio, shapes.centre)
        return MasksInMemory(textured_images(mask, 3 * self.seed + split), mask, self.num_classes)
