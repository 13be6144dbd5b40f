"""Augmentation of image batches on their own device, independently for each image.

A view is an `nn.Module` that maps images `[B, C, H, W]` in [0, 1] to images in [0, 1]. A view's random numbers for a
sample do not depend on the world size (`sample_rows`). torchvision's transforms would sample once per batch. Views
sample per image from the same distributions; each file states the differences.
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
