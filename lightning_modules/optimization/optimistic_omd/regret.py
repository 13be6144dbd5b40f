"""The points in a ball that are best in hindsight, and the regret relative to these points."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.optimization.optimistic_omd.ball import project_points


def quadratic(u: Tensor, slope: Tensor, curvature: float | Tensor) -> Tensor:
    """Compute curvature ||u||^2 / 2 + <slope, u> for points u, `[..., d]`."""
    return curvature / 2 * u.square().sum(-1) + (slope * u).sum(-1)


def least_of_quadratic(slope: Tensor, curvature: float, radius: float) -> Tensor:
    """Return the minimisers of `quadratic` in the ball, `[..., d]`, for slopes `[..., d]` and a curvature >= 0."""
    length = slope.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
    scale = radius / length
    return -slope * (scale.clamp(max=1 / curvature) if curvature else scale)


class Regret(NamedTuple):
    """Regret of each round of a stream with known expected losses, and the variation of the stream."""

    static: Tensor
    """F_t(x_t) - F_t(u), `[T]`, where u is the best fixed point for the whole stream."""
    dynamic: Tensor
    """F_t(x_t) - F_t(u_t), `[T]`, where u_t is the best point of round t."""
    path_length: Tensor
    """Path length sum_t ||u_t - u_{t-1}||."""
    adversarial_variation: Tensor
    """Sigma^2 = sum_t max_x ||grad F_t - grad F_{t-1}||^2 with F_0 = 0."""


def regret_of_quadratics(expected: Tensor, slope: Tensor, curvature: float, radius: float) -> Regret:
    """Compute the regret relative to the best points if F_t(x) = curvature ||x||^2 / 2 + <slope_t, x>.

    Args:
        expected: expected losses F_t(x_t), `[T]`.
        slope: gradient of the expected loss at 0 in each round, `[T, d]`.
        curvature: curvature of the expected losses, which is the same in all rounds.
        radius: radius of the ball.
    """
    fixed = least_of_quadratic(slope.mean(0), curvature, radius)
    moving = least_of_quadratic(slope, curvature, radius)
    first = (curvature * radius + slope[0].norm()).square()
    return Regret(
        expected - quadratic(fixed, slope, curvature),
        expected - quadratic(moving, slope, curvature),
        moving.diff(dim=0).norm(dim=1).sum(),
        first + slope.diff(dim=0).square().sum(),
    )


def excess_risk(point: Tensor, slope: Tensor, curvature: float, radius: float) -> Tensor:
    """Compute F(mean of x_t) - min F, where F is the mean expected loss over rounds (online-to-batch conversion).

    If the distribution is the same in all rounds, the excess risk is at most the static regret divided by T.

    Args:
        point: mean of the played points x_t, `[d]`.
        slope: gradient of the expected loss at 0 in each round, `[T, d]`.
        curvature: curvature of the expected losses, which is the same in all rounds.
        radius: radius of the ball.
    """
    mean = slope.mean(0)
    best = least_of_quadratic(mean, curvature, radius)
    return quadratic(point, mean, curvature) - quadratic(best, mean, curvature)


def growth_exponent(regret: Tensor) -> Tensor:
    """Fit the exponent b in regret = c t^b to 17 values of the regret from the last 15/16 of the rounds.

    The rounds of the 17 values are equidistant in log t. The exponent b is 1/2 if the regret grows like the square root
    of t, and about 1 / log T if the regret grows like log t.

    Args:
        regret: cumulative regret after each round, `[T]`; the exponent is NaN if one of the 17 values is not positive.
    """
    rounds = (len(regret) * 2.0 ** -(torch.arange(17, dtype=regret.dtype) / 4)).ceil()
    x, y = rounds.log(), regret[rounds.long() - 1].log()
    x = x - x.mean()
    return (x @ y) / (x @ x)


def metrics_and_curves(
    expected: Tensor, noise: Tensor, slope: Tensor, point: Tensor, curvature: float, radius: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compute the metrics of a stream with known expected losses, and the cumulative regret for each comparator.

    Args:
        expected: expected losses F_t(x_t), `[T]`.
        noise: variance of the gradient noise in each round, `[T]`.
        slope: gradient of the expected loss at 0 in each round, `[T, d]`.
        point: mean of the played points x_t, `[d]`.
        curvature: curvature of the expected losses, which is the same in all rounds.
        radius: radius of the ball.
    """
    regret = regret_of_quadratics(expected, slope, curvature, radius)
    static, dynamic = regret.static.cumsum(0), regret.dynamic.cumsum(0)
    metrics = {
        "static_regret": regret.static.sum(),
        "dynamic_regret": regret.dynamic.sum(),
        "path_length": regret.path_length,
        "stochastic_variance": noise.sum(),
        "adversarial_variation": regret.adversarial_variation,
        "regret_exponent": growth_exponent(static),
        "excess_risk": excess_risk(point, slope, curvature, radius),
    }
    return metrics, {"best of all rounds": static, "best of each round": dynamic}


class Best(NamedTuple):
    """A point in the ball, the function's value at this point, and an upper bound on this value minus the minimum."""

    point: Tensor
    value: Tensor
    gap: Tensor


def least_on_ball(
    objective: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    radius: float,
    accuracy: float,
    steps: int = 3000,
) -> Best:
    """Minimise a convex function f over the ball by accelerated projected gradient descent.

    The momentum is reset when a step overshoots.

    Because f is convex, f(x) - min f <= <grad f(x), x> + radius ||grad f(x)||. The search stops when this bound is
    below a tolerance.

    Args:
        objective: function that maps a point, `[d]`, to the value of f and its gradient, `[d]`.
        start: point in the ball from which the search starts.
        radius: radius of the ball.
        accuracy: tolerance for the bound, relative to 1 + |f(x)|.
        steps: maximum number of steps.
    """
    x = y = start
    value, gradient = objective(x)
    momentum, smoothness = 1.0, 1.0
    for _ in range(steps):
        gap = gradient @ x + radius * gradient.norm()
        if gap <= accuracy * (1 + value.abs()):
            break
        value_y, gradient_y = objective(y)
        while True:
            new = project_points(y - gradient_y / smoothness, radius)
            moved = new - y
            new_value, new_gradient = objective(new)
            bound = value_y + gradient_y @ moved + smoothness / 2 * moved.square().sum()
            if new_value <= bound + 1e-12 * (1 + value_y.abs()):
                break
            smoothness *= 2
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = (momentum - 1) / grown
        if (y - new) @ (new - x) > 0:
            grown, ahead = 1.0, 0.0
        y = new + ahead * (new - x)
        x, value, gradient, momentum = new, new_value, new_gradient, grown
        smoothness *= 0.8
    return Best(x, value, gradient @ x + radius * gradient.norm())
