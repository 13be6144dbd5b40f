"""Integration of the stochastic differential equation driven by weighted Ornstein-Uhlenbeck processes.

    dX = b(X) dt + s(X) sum_k omega_k dY_k,   dY_k = (-gamma_k Y_k + u) dt + dW.

With u = 0, this equation is the prior. The control u(t, X, Y) turns the prior into the posterior. The relative entropy
of the posterior to the prior is E int |u|^2 / 2 dt (Girsanov). Each dimension of X has separate W, Y_1..Y_K and u, so s
is diagonal.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.probabilistic.fractional_sde.noise import Noise

Solver = Literal["euler", "milstein"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)
STABLE = 0.5
"""Bound on gamma_max times a step."""

Field = Callable[[Tensor], Tensor]
Control = Callable[[int, Tensor, Tensor], Tensor]
"""Maps the index of a step, X `[B, D]` and Y `[B, D, K]` to u, `[B, D]`."""


class SolutionPath(NamedTuple):
    """B paths at F equidistant times, including the start."""

    x: Tensor
    """`[B, F, D]`."""
    y: Tensor
    """`[B, D, K]`, at the last time."""
    divergence: Tensor
    """`[B]`: int |u|^2 / 2 dt."""


def check_step(gamma_max: float, interval: float, substeps: int) -> None:
    """Reject step sizes that make the integration of the fastest process unstable.

    Raises:
        ValueError: if the step size is too large; the message gives a sufficient number of substeps.
    """
    if gamma_max * interval / substeps >= STABLE:
        enough = int(gamma_max * interval / STABLE) + 1
        raise ValueError(
            f"gamma_max times the step size must be below {STABLE}, but gamma_max {gamma_max:g} with {substeps} "
            f"substeps of an interval of {interval:g} gives {gamma_max * interval / substeps:.3g}: set substeps to at "
            f"least {enough}, or decrease gamma_max"
        )


def check_run(trainer: Any, noise: Noise, substeps: int) -> None:
    """Reject a run if its precision is too low.

    If the time interval of the data is known, also reject steps that are too long.

    Mixed precision applies only to networks. Paths and weights are computed outside of autocast.

    Raises:
        ValueError: if precision or steps are unsuitable; the message names the setting.
    """
    if trainer.precision in ("16-true", "bf16-true"):
        raise ValueError(
            f"trainer.precision {trainer.precision} is too coarse for small steps of a path: use 64-true, 32-true or, "
            f"for networks in half precision, bf16-mixed"
        )
    interval = getattr(trainer.datamodule, "interval", None)
    if interval is not None:
        check_step(noise.gamma_max, interval, substeps)


def increments(x: Tensor, num_steps: int, dt: float) -> Tensor:
    """Sample dW for each step and dimension, `[num_steps, B, D]`, for paths that start at x, `[B, D]`."""
    return sample_rows(torch.randn, (num_steps, *x.shape), x.device, rows=1, dtype=x.dtype) * dt**0.5


def integrate(
    x: Tensor,
    y: Tensor,
    dw: Tensor,
    interval: float,
    substeps: int,
    gamma: Tensor,
    omega: Tensor,
    drift: Field,
    diffusion: Field,
    control: Control | None,
    solver: Solver,
) -> SolutionPath:
    """Integrate paths of the posterior or, without a control, of the prior.

    The Euler method integrates the equation in the sense of Ito,

        X += b dt + s sum_k omega_k dY_k,   Y_k += dY_k = (-gamma_k Y_k + u) dt + dW.

    The Milstein method integrates the equation in the sense of Stratonovich. It adds g g' dW^2 / 2 with g = s sum_k
    omega_k. If s is constant, the two methods are equal.

    Args:
        x: initial X, `[B, D]`.
        y: initial Y, `[B, D, K]`.
        dw: increments of W, `[N, B, D]`, for N = (F - 1) x `substeps` steps.
        interval: time between two successive times of the result.
        substeps: number of steps between two successive times of the result.
        gamma: speeds, `[K]`.
        omega: weights, `[K]`.
        drift: function b that maps X to the drift, `[B, D]`.
        diffusion: function s of X; each entry of the result depends only on the same entry of X.
        control: control u; None means u = 0.
        solver: integration method, `euler` or `milstein`.
    """
    dt = interval / substeps
    gamma, omega = gamma.to(x.dtype), omega.to(x.dtype)
    kept, pulled, total = 1 - gamma * dt, gamma * omega * dt, omega.sum()
    path, controls = [x], []
    for step, noise in enumerate(dw):
        kick = noise
        if control is not None:
            u = control(step, x, y).to(x.dtype)
            controls.append(u)
            kick = noise + u * dt
        along = drift(x).to(x.dtype) * dt
        if solver == "milstein":
            s, slope = torch.func.jvp(diffusion, (x,), (torch.ones_like(x),))  # type: ignore[misc]
            along = along + 0.5 * total.square() * (s * slope).to(x.dtype) * noise.square()
        else:
            s = diffusion(x)
        pull = (y * pulled).sum(dim=-1)  # a matrix product would use autocast's half precision
        x = x + along + s.to(x.dtype) * (total * kick - pull)
        y = y * kept + kick[..., None]
        if (step + 1) % substeps == 0:
            path.append(x)
    spent = 0.5 * dt * torch.stack(controls).square().sum(dim=(0, 2)) if controls else x.new_zeros(len(x))
    return SolutionPath(torch.stack(path, dim=1), y, spent)


def misfit(given: Tensor, observed: Tensor, sigma: Tensor | None) -> Tensor:
    """Compute -log p(observed | X), `[B]`, up to a constant: sum_f |given_f - observed_f|^2 / (2 sigma_f^2).

    Args:
        given: observations predicted from X, `[B, F, ...]`.
        observed: `[B, F, ...]`.
        sigma: standard deviation at each time, `[F]`; None sets sigma^2 = 1 / 2, so that the result is the sum of
            squared errors.
    """
    squares = (given - observed).square().flatten(2).sum(dim=2)
    return squares.sum(dim=1) if sigma is None else 0.5 * (squares * sigma.pow(-2)).sum(dim=1)
