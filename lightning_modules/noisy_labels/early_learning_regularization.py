"""Regularisation term that ELR and ELR+ add to the cross-entropy (Liu et al., 2020, equation 7)."""

from torch import Tensor

from lightning_modules.full_precision import at_least_float32


def clamped_softmax(logits: Tensor) -> Tensor:
    """Compute softmax probabilities `[B, K]`, clamped to [1e-4, 1 - 1e-4] as in the authors' code.

    The result has float32 or a higher precision, because in half precision, 1 - p could be rounded to zero. A clamped
    value has no gradient.
    """
    return at_least_float32(logits).softmax(dim=1).clamp(1e-4, 1 - 1e-4)


def early_learning_term(probability: Tensor, target: Tensor) -> Tensor:
    """Compute the regularisation term (1/B) sum_i log(1 - <t_i, p_i>), in nats, which is at most 0.

    Args:
        probability: clamped probabilities p, `[B, K]`.
        target: detached targets t, `[B, K]`.
    """
    return (1 - (target * probability).sum(dim=1)).log().mean()
