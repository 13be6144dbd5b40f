"""The weak, the strong and the contrastive view of the semi-supervised literature, and that of timm's recipes."""

from torch import nn

from lightning_modules.views.colour import ColourJitter
from lightning_modules.views.crops import RandomCrop, RandomResizedCrop
from lightning_modules.views.noise import RandomErasing
from lightning_modules.views.rand_augment import RandAugment
from lightning_modules.views.timm_rand_augment import TimmRandAugment


class WeakView(RandomCrop):
    """A random crop of the padded image, mirrored half of the time."""


class StrongView(nn.Sequential):
    """A box of random area, resized, then RandAugment.

    Args:
        size: height and width, in pixels; None takes that of the images.
        num_ops: operations of RandAugment.
        magnitude: their strength, in 0...30.
        min_area: least area of the box, as a part of the image's.
    """

    def __init__(self, size: int | None = None, num_ops: int = 1, magnitude: int = 6, min_area: float = 0.08) -> None:
        super().__init__(RandomResizedCrop(size, min_area), RandAugment(num_ops, magnitude))


class ContrastiveView(nn.Sequential):
    """SimCLR's view: a box of random area, resized and mirrored, with other colours or none.

    Source: Chen, Kornblith, Norouzi and Hinton, A Simple Framework for Contrastive Learning of Visual Representations,
    ICML 2020, arXiv 2002.05709; without its blur.

    Args:
        size: height and width, in pixels; None takes that of the images.
        brightness: strength of the change of brightness, contrast and saturation.
        hue: greatest shift of the hue.
        min_area: least area of the box, as a part of the image's.
    """

    def __init__(
        self, size: int | None = None, brightness: float = 0.4, hue: float = 0.1, min_area: float = 0.08
    ) -> None:
        super().__init__(
            RandomResizedCrop(size, min_area, flip=True), ColourJitter(brightness, brightness, brightness, hue)
        )


class TimmView(nn.Sequential):
    """RandAugment by timm's string, then a box of noise in some images: what timm's recipes for ImageNet do.

    Args:
        recipe: timm's string of RandAugment.
        erased: part of the images that have a box, timm's `reprob`, in [0, 1].
    """

    def __init__(self, recipe: str = "rand-m9-mstd0.5-inc1", erased: float = 0.25) -> None:
        super().__init__(TimmRandAugment(recipe), RandomErasing(erased))
