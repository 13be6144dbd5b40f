"""Regularisation term that ELR and ELR+ add to the cross-entropy (Liu et al., 2020, equation 7)."""

from torch import Tensor

from lightning_modules.full_precision import at_least_float32


def clamped_softmax(logits: Tensor, lowest: float = 1e-4) -> Tensor:
    """Compute softmax probabilities, clamped to [1e-4, 1 - 1e-4], in float32 or a higher precision.

    Half precision is not used, because 1 - p could then be rounded to zero.

    Args:
        logits: logits, `[B, K]`.
        lowest: lower bound of the clamp; the default is from the authors' code. The gradient of a clamped value is
            zero.

    Returns:
        Probabilities `[B, K]`; rows sum to one, except for the effect of the clamp.
    """
    return at_least_float32(logits).softmax(dim=1).clamp(lowest, 1 - lowest)


def early_learning_term(probability: Tensor, target: Tensor) -> Tensor:
    """Compute the regularisation term (1/B) sum_i log(1 - <t_i, p_i>), in nats, which is at most 0.

    Args:
        probability: clamped probabilities p, `[B, K]`.
        target: detached targets t, `[B, K]`.
    """
    return (1 - (target * probability).sum(dim=1)).log().mean()
