"""Gradient descent with a line search for the step size: the Armijo condition with backtracking.

    accept the first step of s, .9 s, .9^2 s, ... with  f(theta - step g) <= f(theta) - c step ||g||^2,   g = grad f.

The host waits for the value of every trial step. All ranks decide by the same numbers.

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
"""Factor between successive trial steps."""
EXPAND = 2.0
"""Factor by which the step size may grow in an epoch, or in target space from one batch to the next."""
TRIES = 100
LEAST_STEP = 1e-6
LEAST_NORM = 1e-6
"""Norm of a gradient below which the search stops."""


class Found(NamedTuple):
    """Result of a line search."""

    step: float
    """The accepted step or, if none was accepted, the smallest trial step."""
    tries: int
    """Number of evaluations; 0 if the gradient was already 0."""
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
    """Move parameters, in place, by the first step that meets the Armijo condition.

    If there is none, they do not change.

    Args:
        parameters: theta.
        gradient: gradient g, all-reduced over ranks.
        value: loss f(theta), all-reduced over ranks.
        function: function that computes f at the current parameters, all-reduced over ranks.
        step: first trial step size s.
        c: required fraction of the first-order decrease, in (0, 1).
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
