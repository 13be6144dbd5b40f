"""Mixed examples and soft labels: mixup, CutMix and label smoothing.

Sources: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv 1710.09412; Yun et al., CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features, ICCV 2019, arXiv 1905.04899; Szegedy et
al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016, arXiv 1512.00567.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp


class Mixing(NamedTuple):
    """Each example i is mixed with example `partner[i]`; its own part is `weight`."""

    weight: float
    """l in [1/2, 1]: the example keeps the larger part."""
    partner: Tensor
    """`[B]`, int64: a permutation of the batch."""

    def __call__(self, value: Tensor) -> Tensor:
        """l value + (1 - l) value[partner], of `[B, ...]`."""
        return self.weight * value + (1 - self.weight) * value[self.partner]


def draw_mixing(batch_size: int, alpha: float, device: torch.device | str) -> Mixing:
    """Draws l ~ Beta(alpha, alpha), folded to l >= 1/2, and a permutation.

    Args:
        batch_size: B.
        alpha: both parameters of the Beta distribution; 0 leaves the examples unmixed.
        device: where the permutation is drawn. l is drawn on the host, so that no step waits for it.
    """
    weight = float(torch.distributions.Beta(alpha, alpha).sample()) if alpha > 0 else 1.0
    return Mixing(max(weight, 1 - weight), torch.randperm(batch_size, device=device))


class SoftLabels:
    """Makes labels soft, with mixed images or without.

    Each process mixes its share of a batch, by one of the two with equal probability where both are on.

    Args:
        mixup_alpha: of mixup's Beta distribution; 0 leaves it out.
        cutmix_alpha: of CutMix's; 0 leaves it out.
        smoothing: the part of a label that is spread over all classes, in [0, 1).

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, smoothing: float = 0.0) -> None:
        for key, value in {"mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha}.items():
            if value < 0:
                raise ValueError(f"{key} must be at least 0, got {value}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.smoothing = smoothing

    @property
    def mixes(self) -> bool:
        """True where images change, not labels alone."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def __call__(self, image: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mixed images `[B, C, H, W]`, and probabilities `[B, K]` for labels `[B]`."""
        soft = F.one_hot(label, num_classes).to(image.dtype)
        ways = [(kind, alpha) for kind, alpha in ((MixUp, self.mixup_alpha), (CutMix, self.cutmix_alpha)) if alpha > 0]
        if ways:
            # Drawn on the host, as the transform's own weight is: no step waits for it.
            kind, alpha = ways[int(torch.randint(len(ways), (), device="cpu"))]
            image, soft = kind(alpha=alpha, num_classes=num_classes)(image, soft)
        return image, soft * (1 - self.smoothing) + self.smoothing / num_classes
