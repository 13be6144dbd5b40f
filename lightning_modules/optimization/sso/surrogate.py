"""The quadratic surrogate of a loss in the space of outputs, in the scaling of the paper or of the code."""

from typing import Literal

from torch import Tensor

Scaling = Literal["paper", "code"]


def paper_surrogate(outputs: Tensor, at: Tensor, gradient: Tensor, inverse_step: Tensor, value: Tensor) -> Tensor:
    """Compute g = l(z_t) + <G, z - z_t> + 1/2 sum H (z - z_t)^2.

    Args:
        outputs: z, `[b, K]`.
        at: z_t, `[b, K]`.
        gradient: G, `[b, K]`.
        inverse_step: inverse step size H, a number or `[b, K]`.
        value: loss l(z_t), summed over the samples.
    """
    difference = outputs - at
    return value + (gradient * difference + inverse_step / 2 * difference**2).sum()


def code_surrogate(outputs: Tensor, at: Tensor, gradient: Tensor, inverse_step: Tensor, entries: int) -> Tensor:
    """Compute S, the mean of G (z - z_t) / H + (z - z_t)^2; if H is `[b, K]`, of G (z - z_t) + H (z - z_t)^2.

    Args:
        outputs: z, `[b, K]`.
        at: z_t, `[b, K]`.
        gradient: G, `[b, K]`.
        inverse_step: inverse step size H, a number or `[b, K]`.
        entries: divisor of the sum; this is the number of entries, b K, over all ranks.
    """
    difference = outputs - at
    linear, square = gradient * difference, difference**2
    terms = linear + inverse_step * square if inverse_step.ndim else linear / inverse_step + square
    return terms.sum() / entries
