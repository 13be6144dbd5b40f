"""The quadratic surrogate of a loss in the space of outputs, with the scaling of the paper or of the authors' code."""

from typing import Literal

from torch import Tensor

Scaling = Literal["paper", "code"]


def paper_surrogate(outputs: Tensor, at: Tensor, gradient: Tensor, inverse_step: Tensor, value: Tensor) -> Tensor:
    """Compute g = l(z_t) + <G, z - z_t> + 1/2 sum H (z - z_t)^2.

    Args:
        outputs: outputs z, `[b, K]`.
        at: outputs z_t at which the surrogate is defined, `[b, K]`.
        gradient: gradient G at z_t, `[b, K]`.
        inverse_step: inverse step size H, a number or `[b, K]`.
        value: loss l(z_t), summed over samples.
    """
    difference = outputs - at
    return value + (gradient * difference + inverse_step / 2 * difference**2).sum()


def code_surrogate(outputs: Tensor, at: Tensor, gradient: Tensor, inverse_step: Tensor, entries: int) -> Tensor:
    """Compute S, the mean of G (z - z_t) / H + (z - z_t)^2, or of G (z - z_t) + H (z - z_t)^2 if H is `[b, K]`.

    Args:
        outputs: outputs z, `[b, K]`.
        at: outputs z_t at which the surrogate is defined, `[b, K]`.
        gradient: gradient G at z_t, `[b, K]`.
        inverse_step: inverse step size H, a number or `[b, K]`.
        entries: total number of entries b K over all ranks, by which the sum is divided.
    """
    difference = outputs - at
    linear, square = gradient * difference, difference**2
    terms = linear + inverse_step * square if inverse_step.ndim else linear / inverse_step + square
    return terms.sum() / entries
