"""Terms of NegVSR's loss, as functions of clips `[B, T, C, H, W]`; all are means over elements."""

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.optim.optimizers import temporarily_frozen


def reduced(clip: Tensor, scale: int) -> Tensor:
    """Average squares of `scale` pixels a side."""
    return F.avg_pool2d(clip.flatten(0, 1), scale).unflatten(0, clip.shape[:2])


def negative_distance(negative: Tensor, positive: Tensor, detach_positive: bool = False) -> Tensor:
    """Measure how far what becomes of a negative is from what becomes of its clip: mean |y_neg - y_pos|.

    Args:
        negative: y_neg.
        positive: y_pos, which gets the opposite gradient.
        detach_positive: whether y_pos gets none.
    """
    return (negative - (positive.detach() if detach_positive else positive)).abs().mean()


def judged(score: Tensor, real: bool) -> Tensor:
    """Average the cross-entropy of scores that should say real, or false."""
    return F.softplus(-score if real else score).mean()


def adversarial(discriminator: nn.Module, clip: Tensor) -> Tensor:
    """Compute the loss of a clip whose frames are to be judged real; no gradient reaches the discriminator."""
    with temporarily_frozen(discriminator):
        return judged(discriminator(clip.flatten(0, 1)), real=True)


def discriminating(discriminator: nn.Module, clean: Tensor, made: Tensor) -> Tensor:
    """Compute the discriminator's loss: the frames of clean clips are real, those of made ones false."""
    return judged(discriminator(clean.flatten(0, 1)), True) + judged(discriminator(made.detach().flatten(0, 1)), False)
