"""Regularisation term that ELR and ELR+ add to cross-entropy (Liu et al., 2020, equation 7)."""

from torch import Tensor

from lightning_modules.full_precision import at_least_float32


def clamped_softmax(logits: Tensor, lowest: float = 1e-4) -> Tensor:
    """Compute softmax probabilities in float32 or better, clamped to [1e-4, 1 - 1e-4].

    In half precision, 1 - p could round to zero.

    Args:
        logits: logits, `[B, K]`.
        lowest: lower clamp of the authors' code; gradients are zero where the clamp is active.

    Returns:
        Probabilities `[B, K]`; rows sum to one, up to the clamp.
    """
    return at_least_float32(logits).softmax(dim=1).clamp(lowest, 1 - lowest)


def early_learning_term(probability: Tensor, target: Tensor) -> Tensor:
    """Compute the regulariser (1/B) sum_i log(1 - <t_i, p_i>), in nats; at most 0.

    Args:
        probability: clamped probabilities p, `[B, K]`.
        target: detached targets t, `[B, K]`.
    """
    return (1 - (target * probability).sum(dim=1)).log().mean()
