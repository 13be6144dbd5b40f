"""Mixed samples and soft labels (mixup, CutMix and label smoothing), and the cross-entropy with soft labels.

Sources: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv 1710.09412; Yun et al., CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features, ICCV 2019, arXiv 1905.04899; Szegedy et
al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016, arXiv 1512.00567; binary cross-entropy on
mixed images: Touvron, Cord and Jegou, DeiT III: Revenge of the ViT, ECCV 2022, arXiv 2204.07118.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp

from datamodules.randomness.shared_batches import rows_of_batch, shared_rng
from lightning_modules.distributed.global_rows import partner_rows


class Mixing(NamedTuple):
    """Random pairing of the samples of a batch: each sample is mixed with a partner."""

    weight: float
    """Weight l of the sample itself, in [1/2, 1]; the partner has the weight 1 - l."""
    partner: Tensor
    """Partner of each sample, as a permutation of the global batch, `[B]`, int64, on the CPU; see `partner_rows`."""

    def __call__(self, value: Tensor) -> Tensor:
        """Mix the values of this rank's samples, `[b, ...]`, with the values of their partners."""
        return self.weight * value + (1 - self.weight) * self.partners(value)

    def partners(self, value: Tensor) -> Tensor:
        """Fetch the values of the partners of this rank's samples, `[b, ...]`. Every rank must call this method."""
        return partner_rows(value, self.partner)


def draw_mixing(share: int, alpha: float) -> Mixing:
    """Sample a permutation of the global batch and l ~ Beta(alpha, alpha), and use the weight max(l, 1 - l).

    The weight and the permutation are sampled on the CPU, which avoids synchronisation with the device.

    Args:
        share: number of samples on this rank.
        alpha: value of both parameters of the Beta distribution; if it is 0, the samples are not mixed.
    """
    with shared_rng():
        both = torch.tensor(alpha, dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))
        weight = float(torch.distributions.Beta(both, both).sample()) if alpha > 0 else 1.0
        return Mixing(max(weight, 1 - weight), torch.randperm(rows_of_batch(share)))


class SoftLabels:
    """Function object for mixup, CutMix and label smoothing: it mixes images, and softens their labels.

    Each batch is mixed either by mixup or by CutMix, with equal probability if both are enabled. The partner of a
    sample is the preceding sample.

    Args:
        mixup_alpha: parameter of the Beta distribution of mixup; 0 disables mixup.
        cutmix_alpha: parameter of the Beta distribution of CutMix; 0 disables CutMix.
        smoothing: fraction of each label that is distributed over all classes, in [0, 1).
        all_right: whether the target in binary cross-entropy is 1 for every class in a mixed image, as in DeiT III. If
            false, the target is the mixing weight of the class.
    """

    def __init__(
        self, mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, smoothing: float = 0.0, all_right: bool = True
    ) -> None:
        for key, value in {"mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha}.items():
            if value < 0:
                raise ValueError(f"{key} must be at least 0, got {value}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.smoothing = smoothing
        self.all_right = all_right

    @property
    def mixes(self) -> bool:
        """Return whether images are mixed. Label smoothing alone does not mix images."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def __call__(self, image: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mix images `[B, C, H, W]`, and return class probabilities `[B, K]` for labels `[B]`."""
        soft = F.one_hot(label, num_classes).to(image.dtype)
        ways = [(kind, alpha) for kind, alpha in ((MixUp, self.mixup_alpha), (CutMix, self.cutmix_alpha)) if alpha > 0]
        if ways:
            with shared_rng():  # on the CPU, to avoid synchronisation with the device
                kind, alpha = ways[int(torch.randint(len(ways), (), device="cpu"))]
                image, soft = _mix(kind(alpha=alpha, num_classes=num_classes), image, soft)
        return image, soft * (1 - self.smoothing) + self.smoothing / num_classes


def soft_cross_entropy(logits: Tensor, target: Tensor, binary: bool = False, all_right: bool = True) -> Tensor:
    """Compute the mean cross-entropy of logits `[B, K]` with respect to labels `[B]` or probabilities `[B, K]`.

    Args:
        logits: logits of the mixed or unmixed images.
        target: labels (int64), or probabilities from `SoftLabels`.
        binary: whether to use the binary cross-entropy of each class, averaged over classes and samples.
        all_right: whether the binary cross-entropy uses the target 1 for every class in the image, instead of the
            class's probability. This requires `SoftLabels` without smoothing.
    """
    if not binary:
        return F.cross_entropy(logits, target)
    soft = target if target.is_floating_point() else F.one_hot(target, logits.shape[1])
    return F.binary_cross_entropy_with_logits(logits, (soft > 0 if all_right else soft).to(logits.dtype))


def _mix(mix: MixUp | CutMix, image: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each sample with the preceding sample of the global batch.

    The transform mixes each sample of its input with the sample before it. If there are several ranks, each sample is
    therefore placed directly after its partner in the input.
    """
    size = rows_of_batch(len(image))
    if size == len(image):
        return mix(image, soft)
    before = torch.arange(size).roll(1)
    image, soft = mix(*(torch.stack([partner_rows(x, before), x], dim=1).flatten(0, 1) for x in (image, soft)))
    return image[1::2], soft[1::2]
