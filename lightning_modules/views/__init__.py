"""Augmentation of image batches on their own device, independently for each image.

A view is an `nn.Module` that augments images: it maps `[B, C, H, W]` in [0, 1] to images in [0, 1]. A sample's random
numbers do not depend on the world size (`sample_rows`). torchvision's transforms would use the same random numbers for
a whole batch. Views use separate random numbers per image, from the same distributions; each file states the
differences.
"""

from lightning_modules.views.colour import ColourJitter
from lightning_modules.views.crops import RandomCrop, RandomResizedCrop
from lightning_modules.views.noise import AddedNoise, RandomErasing
from lightning_modules.views.rand_augment import RandAugment, TimmRandAugment
from lightning_modules.views.standard import ContrastiveView, StrongView, TimmView, WeakView

__all__ = [
    "AddedNoise",
    "ColourJitter",
    "ContrastiveView",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "StrongView",
    "TimmRandAugment",
    "TimmView",
    "WeakView",
]
