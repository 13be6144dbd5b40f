"""Augmentation of batches of images on the device of the batch.

A view is an `nn.Module` that maps images `[B, C, H, W]` in [0, 1] to augmented images in [0, 1]. The transforms of
torchvision use the same random numbers for all images of a batch. Views, by contrast, sample separate random numbers
for each image, from the same distributions as torchvision. The random numbers of an image do not depend on the world
size (see `sample_rows`). Each file states how it differs from the original augmentation.
"""

from lightning_modules.views.colour import ColourJitter
from lightning_modules.views.crops import RandomCrop, RandomResizedCrop
from lightning_modules.views.noise import AddedNoise, RandomErasing
from lightning_modules.views.rand_augment import RandAugment, TimmRandAugment
from lightning_modules.views.standard import ContrastiveView, StrongView, ThreeAugment, TimmView, WeakView

__all__ = [
    "AddedNoise",
    "ColourJitter",
    "ContrastiveView",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "StrongView",
    "ThreeAugment",
    "TimmRandAugment",
    "TimmView",
    "WeakView",
]
