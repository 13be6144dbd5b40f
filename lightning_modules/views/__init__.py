"""Augmented views of a batch of images, drawn on the batch's own device, each image by itself.

A view is an `nn.Module` that maps images `[B, C, H, W]` in [0, 1] to images in [0, 1]. What it draws for a sample is
the same on any number of processes (`sample_rows`). torchvision's transforms would draw once for the whole batch; what
is drawn here for each image has their distributions, with the differences that each file states.
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
