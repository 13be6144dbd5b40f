"""The term that ELR and ELR+ add to cross-entropy (Liu et al., 2020, equation 7)."""

from torch import Tensor

from lightning_modules.full_precision import at_least_float32


def clamped_softmax(logits: Tensor, lowest: float = 1e-4) -> Tensor:
    """Probabilities in [1e-4, 1 - 1e-4], at least float32: the complement of a half-precision one would round to zero.

    Args:
        logits: `[B, K]`.
        lowest: the clamp of the authors' code. Its gradient is zero where it acts.

    Returns:
        `[B, K]`; rows sum to one up to the clamp.
    """
    return at_least_float32(logits).softmax(dim=1).clamp(lowest, 1 - lowest)


def early_learning_term(probability: Tensor, target: Tensor) -> Tensor:
    """(1/B) sum_i log(1 - <t_i, p_i>), in nats; at most 0.

    Args:
        probability: `[B, K]`, clamped: p.
        target: `[B, K]`, without gradient: t.
    """
    return (1 - (target * probability).sum(dim=1)).log().mean()
