"""Loss terms of NegVSR, as functions of clips `[B, T, C, H, W]`.

Each term is a mean over elements.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least
from lightning_modules.optim.optimizers import temporarily_frozen


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; the weight of the negatives is one of the settings of the negatives.

    Args:
        cleaning: weight of the distance between the cleaned clip and the downsampled target.
        perception: weight of the perceptual distance.
        adversarial: weight of the adversarial loss.
    """

    cleaning: float = 1.0
    perception: float = 1.0
    adversarial: float = 0.05

    def __post_init__(self) -> None:
        at_least(0, **{f"weights.{key}": value for key, value in vars(self).items()})


def average_pool_clips(clip: Tensor, scale: int) -> Tensor:
    """Downsample clips by averaging blocks of `scale` x `scale` pixels."""
    return F.avg_pool2d(clip.flatten(0, 1), scale).unflatten(0, clip.shape[:2])


def negative_distance(negative: Tensor, positive: Tensor, detach_positive: bool = False) -> Tensor:
    """Compute the mean distance |y_neg - y_pos| between the outputs for a negative and for the original clip.

    Args:
        negative: output y_neg for the negative.
        positive: output y_pos for the original clip. The gradient with respect to y_pos is minus the gradient with
            respect to y_neg.
        detach_positive: whether to stop the gradient of the distance with respect to y_pos.
    """
    return (negative - (positive.detach() if detach_positive else positive)).abs().mean()


def real_or_fake_loss(score: Tensor, real: bool) -> Tensor:
    """Compute the mean binary cross-entropy of discriminator logits for the target "real" or "fake"."""
    return F.softplus(-score if real else score).mean()


def adversarial(discriminator: nn.Module, clip: Tensor) -> Tensor:
    """Compute the adversarial loss of the generator for the frames of a clip.

    The parameters of the discriminator receive no gradients.
    """
    with temporarily_frozen(discriminator):
        return real_or_fake_loss(discriminator(clip.flatten(0, 1)), real=True)


def discriminating(discriminator: nn.Module, clean: Tensor, made: Tensor) -> Tensor:
    """Compute the discriminator's loss.

    Frames of clean clips have the target "real", and generated frames the target "fake".
    """
    return real_or_fake_loss(discriminator(clean.flatten(0, 1)), True) + real_or_fake_loss(
        discriminator(made.detach().flatten(0, 1)), False
    )
