"""Augmentation of image batches on their device.

Each image is augmented independently. A view is an `nn.Module` that augments images. It maps images `[B, C, H, W]` in
[0, 1] to images in [0, 1]. The random numbers of a sample do not depend on the world size (`sample_rows`). The
transforms of torchvision would use the same random numbers for the whole batch. Views use separate random numbers for
each image, from the same distributions. Each file states the differences.
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
