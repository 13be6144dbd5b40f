"""Optimistic online mirror descent with implicit steps, for losses that are not smooth.

After round t, the loss value f_t(x_t) and a (sub-)gradient g_t are known. The update of x^ does not use the linear
model of the loss, but a piecewise linear model that is cut off at 0:

    x^_{t+1} = argmin max{0, f_t(x_t) + <g_t, x - x_t>} + ||x - x^_t||^2 / (2 eta_t),    x in the ball,
    x_{t+1} = P(x^_{t+1} - eta_{t+1} g_t),    eta_t = D / sqrt(delta + 4 G^2 + V_{t-1}).

If f_t is the hinge loss of one row and f_t(x_t) is positive, this model equals f_t. For other convex losses that are at
least 0, the model is a lower bound on f_t. The minimiser is x(c) = P(x^_t - eta_t c g_t) for some c in [0, 1]. The
value of c is the largest for which f_t(x_t) + <g_t, x(c) - x_t> is at least 0, or 0 if there is no such value. This
expression decreases as c increases, so bisection finds c.

The theorem and its constants are reconstructed from memory. Because the losses are not smooth, the default of delta is
0.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from datamodules.arguments import at_least
from lightning_modules.optimization.optimistic_omd.ball import project_points, squared_norm
from lightning_modules.optimization.optimistic_omd.optimizers import Memory, OnlineOptimizer, number

HALVINGS = 50
"""Number of bisection steps; the first step halves the interval [0, 1]."""


class ImplicitOMD(OnlineOptimizer):
    """Optimistic online mirror descent with implicit steps, for hinge losses and other nonnegative losses.

    The closure of `step` must return the loss of the round at the played point.

    Args:
        params: parameters in a single group, with the same dtype and on the same device.
        D: diameter of the ball around the origin.
        G: bound on the norms of all gradients, including their noise; None means the largest norm so far.
        delta: term that is added to 4 G^2 in the step size.
    """

    def __init__(self, params: Iterable[Any], D: float, G: float | None = None, delta: float = 0.0) -> None:
        at_least(0, delta=delta)
        self.delta = delta
        self._loss = torch.zeros(())
        super().__init__(params, D, G)

    def begin(self, x: Tensor) -> Memory:
        zero = torch.zeros_like(x[0])
        return {"anchor": x.clone(), "hint": torch.zeros_like(x), "variation": zero}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """End a round with the gradients of the parameters and the loss of the closure, and set the next point."""
        if closure is None:
            raise ValueError("step of ImplicitOMD needs a closure that returns the loss of the round")
        with torch.enable_grad():
            loss = closure()
        self._loss = loss.detach()
        super().step()
        return loss

    def decide(self, gradient: Any, memory: Memory) -> Any:
        point: Any = self.point if isinstance(gradient, Tensor) else self.point.numpy()
        value, eta = number(self._loss, gradient), number(self.step_size(memory), gradient)
        memory["anchor"] = self._nearest(gradient, value, point, memory["anchor"], eta)
        memory["variation"] = memory["variation"] + squared_norm(gradient - memory["hint"])
        memory["hint"] = gradient
        return project_points(memory["anchor"] - number(self.step_size(memory), gradient) * gradient, self.radius)

    def step_size(self, memory: Memory) -> Any:
        """Compute the step size eta_t."""
        bound = self.bound(memory)
        return self.D / (self.delta + 4 * bound * bound + memory["variation"]) ** 0.5

    def _nearest(self, gradient: Any, value: Any, point: Any, anchor: Any, eta: Any) -> Any:
        """Compute x^_{t+1} by bisection."""
        start = value - gradient @ point  # the model of the loss is max(0, start + <g, x>)

        def moved(c: Any) -> Any:
            return project_points(anchor - eta * c * gradient, self.radius)

        low, high = 0.0 * value, 0.0 * value + 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = start + gradient @ moved(middle) >= 0
            low, high = _choose(above, middle, low), _choose(above, high, middle)
        return moved((low + high) / 2)


def _choose(condition: Any, first: Any, second: Any) -> Any:
    return torch.where(condition, first, second) if isinstance(condition, Tensor) else first if condition else second
