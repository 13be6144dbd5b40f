"""Gradient descent whose step sizes are found by trying: Armijo's condition with backtracking.

    accept the first step of s, .9 s, .9^2 s, ... with  f(theta - step g) <= f(theta) - c step ||g||^2,   g = grad f.

Every try waits for its value, and all processes decide by the same numbers.

Source: Armijo, Minimization of Functions Having Lipschitz Continuous First Partial Derivatives, Pacific Journal of
Mathematics 1966; Vaswani et al., Painless Stochastic Gradient: Interpolation, Line-Search, and Convergence Rates,
NeurIPS 2019, arXiv 1905.09997.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.torch_internals import foreach_add_, foreach_copy_, foreach_norm

SHRINK = 0.9
"""Factor from one try to the next."""
EXPAND = 2.0
"""Factor by which a step that was found may grow in an epoch, or in target space from one batch to the next."""
TRIES = 100
LEAST_STEP = 1e-6
LEAST_NORM = 1e-6
"""Norm of a gradient from which there is nothing left to do."""


class Found(NamedTuple):
    """The end of a search."""

    step: float
    """The step that was taken; where none was accepted, the smallest one that was tried."""
    tries: int
    """Values that were computed; 0 where the gradient was nought already."""
    accepted: bool


@torch.no_grad()
def search(
    parameters: Sequence[Tensor],
    gradient: list[Tensor],
    value: Tensor,
    function: Callable[[], Tensor],
    step: float,
    c: float,
) -> Found:
    """Move parameters, in place, by the first step that meets Armijo's condition; they stay where they are without one.

    Args:
        parameters: theta.
        gradient: g, of the function over all processes.
        value: f(theta), of all processes.
        function: computes f at the parameters as they are then, over all processes.
        step: s, the first step that is tried.
        c: part of the first-order decrease that is asked for, in (0, 1).
    """
    squared = torch.stack(foreach_norm(gradient)).square().sum()
    before, squared_norm = torch.stack([value.to(squared), squared]).tolist()
    if squared_norm <= LEAST_NORM**2:
        return Found(step, 0, False)
    moved, start = list(parameters), [each.clone() for each in parameters]
    for tries in range(1, TRIES + 1):
        foreach_copy_(moved, start)
        foreach_add_(moved, gradient, alpha=-step)
        if float(function()) <= before - c * step * squared_norm:
            return Found(step, tries, True)
        if step * SHRINK < LEAST_STEP or tries == TRIES:
            break
        step *= SHRINK
    foreach_copy_(moved, start)
    return Found(step, tries, False)
