"""Weak and strong augmentations for semi-supervised learning, and the augmentations of SimCLR, timm and DeiT III."""

import torch
from torch import Tensor, nn

from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.views.byol import GaussianBlur, Solarize
from lightning_modules.views.colour import ColourJitter, grey
from lightning_modules.views.crops import RandomCrop, RandomResizedCrop
from lightning_modules.views.noise import RandomErasing
from lightning_modules.views.rand_augment import RandAugment, TimmRandAugment


class WeakView(RandomCrop):
    """Weak augmentation: crop the padded image at a random position, and mirror it with probability 1/2."""


class StrongView(nn.Sequential):
    """Strong augmentation: random resized crop, followed by RandAugment.

    Args:
        size: height and width of the result, in pixels; None keeps the size of the images.
        num_ops: number of RandAugment operations.
        magnitude: strength of the RandAugment operations, in 0...30.
        min_area: smallest area of the crop, as a fraction of the image area.
    """

    def __init__(self, size: int | None = None, num_ops: int = 1, magnitude: int = 6, min_area: float = 0.08) -> None:
        super().__init__(RandomResizedCrop(size, min_area), RandAugment(num_ops, magnitude))


class ContrastiveView(nn.Sequential):
    """Augmentation of SimCLR: random resized crop, mirroring, colour jitter and random conversion to grey.

    Source: Chen, Kornblith, Norouzi and Hinton, A Simple Framework for Contrastive Learning of Visual Representations,
    ICML 2020, arXiv 2002.05709. The blur of the paper is omitted.

    Args:
        size: height and width of the result, in pixels; None keeps the size of the images.
        brightness: maximum difference between 1 and the factors of brightness, contrast and saturation.
        hue: maximum hue shift.
        min_area: smallest area of the crop, as a fraction of the image area.
    """

    def __init__(
        self, size: int | None = None, brightness: float = 0.4, hue: float = 0.1, min_area: float = 0.08
    ) -> None:
        super().__init__(
            RandomResizedCrop(size, min_area, flip=True), ColourJitter(brightness, brightness, brightness, hue)
        )


class TimmView(nn.Sequential):
    """Augmentation that timm uses to train on ImageNet: RandAugment, followed by random erasing.

    Args:
        recipe: timm's string that specifies RandAugment; see `TimmRandAugment`.
        erased: probability that random erasing is applied to an image, in [0, 1]; `reprob` in timm.
    """

    def __init__(self, recipe: str = "rand-m9-mstd0.5-inc1", erased: float = 0.25) -> None:
        super().__init__(TimmRandAugment(recipe), RandomErasing(erased))


class ThreeAugment(nn.Module):
    """3-Augment of DeiT III: apply one of three operations (grey, solarise, blur) to each image, then colour jitter.

    The three operations have equal probability. Random resized crops and mirroring are left to the dataset. The blur is
    an exact Gaussian with a standard deviation of 0.1 to 2 pixels. The authors blur with Pillow, which approximates the
    Gaussian by box filters.

    Source: Touvron, Cord and Jegou, DeiT III: Revenge of the ViT, ECCV 2022, arXiv 2204.07118.

    Args:
        jitter: maximum difference between 1 and the factors of brightness, contrast and saturation.
    """

    def __init__(self, jitter: float = 0.3) -> None:
        super().__init__()
        self.jitter = ColourJitter(jitter, jitter, jitter, hue=0.0, probability=1.0, grey_probability=0.0)
        self.solarize, self.blur = Solarize(1.0), GaussianBlur()

    def forward(self, image: Tensor) -> Tensor:
        chosen = (3 * sample_rows(torch.rand, (len(image),), image.device)).long().view(-1, 1, 1, 1)
        changed = torch.where(chosen == 0, grey(image), self.solarize(image))
        return self.jitter(torch.where(chosen == 2, self.blur(image), changed))
