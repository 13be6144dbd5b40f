"""Gradient descent with a backtracking line search for a step size that satisfies the Armijo condition.

    accept the first step of s, .9 s, .9^2 s, ... with  f(theta - step g) <= f(theta) - c step ||g||^2,   g = grad f.

The host waits for the function value of every trial step. All ranks make the same decisions, because they use the same
values.

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
"""Ratio of successive trial step sizes."""
EXPAND = 2.0
"""Maximum factor by which the step size grows per epoch or, in target space, from one batch to the next."""
TRIES = 100
LEAST_STEP = 1e-6
LEAST_NORM = 1e-6
"""The search does not start if the norm of the gradient is at most this value."""


class Found(NamedTuple):
    """Result of a line search."""

    step: float
    """The accepted step size or, if no step was accepted, the smallest trial step size."""
    tries: int
    """Number of function evaluations; 0 if the gradient was almost 0."""
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
    """Update the parameters in place by the first trial step that satisfies the Armijo condition.

    If no trial step satisfies the condition, the parameters do not change.

    Args:
        parameters: parameters theta.
        gradient: gradient g, all-reduced over ranks.
        value: function value f(theta), all-reduced over ranks.
        function: function that computes f for the current parameters, all-reduced over ranks.
        step: first trial step size s.
        c: fraction, in (0, 1), of the first-order decrease that a step must achieve.
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
