"""Numerical integration of a stochastic differential equation driven by weighted Ornstein-Uhlenbeck processes.

    dX = b(X) dt + s(X) sum_k omega_k dY_k,   dY_k = (-gamma_k Y_k + u) dt + dW.

With u = 0, this equation is the prior. The control u(t, X, Y) turns the prior into the posterior. The divergence
KL(posterior || prior) is E int |u|^2 / 2 dt (Girsanov). Each dimension of X has its own W, Y_1..Y_K and u, so s is
diagonal.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.interfaces import TimedSequences, data_with
from lightning_modules.probabilistic.fractional_sde.noise import Noise

Solver = Literal["euler", "milstein"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)
STABLE = 0.5
"""Upper bound on gamma_max times the step size."""

Field = Callable[[Tensor], Tensor]
Control = Callable[[int, Tensor, Tensor], Tensor]
"""Function that maps the index of an integration step, X, `[B, D]`, and Y, `[B, D, K]`, to u, `[B, D]`."""


class SolutionPath(NamedTuple):
    """B integrated paths at F equidistant times, including the start."""

    x: Tensor
    """X at all times, `[B, F, D]`."""
    y: Tensor
    """Y at the last time, `[B, D, K]`."""
    divergence: Tensor
    """The integral int |u|^2 / 2 dt along each path, `[B]`."""


def check_step(gamma_max: float, interval: float, substeps: int) -> None:
    """Reject step sizes for which the integration of the fastest process is unstable."""
    if gamma_max * interval / substeps >= STABLE:
        enough = int(gamma_max * interval / STABLE) + 1
        raise ValueError(
            f"gamma_max times the step size must be below {STABLE}, but gamma_max {gamma_max:g} with {substeps} "
            f"substeps of an interval of {interval:g} gives {gamma_max * interval / substeps:.3g}: set substeps to at "
            f"least {enough}, or decrease gamma_max"
        )


def check_run(trainer: Any, noise: Noise, substeps: int) -> None:
    """Reject a run if its precision is too low or its step size is too large.

    The step size is checked only if the data module defines the time interval of its data.

    Mixed precision is accepted, because it only affects the networks. Paths, and the weights of the processes, are
    computed outside autocast.
    """
    if trainer.precision in ("16-true", "bf16-true"):
        raise ValueError(
            f"trainer.precision {trainer.precision} is too coarse for small steps of a path: use 64-true, 32-true or, "
            f"for networks in half precision, bf16-mixed"
        )
    if (data := data_with(trainer, TimedSequences)) is not None:
        check_step(noise.gamma_max, data.interval, substeps)


def increments(x: Tensor, num_steps: int, dt: float) -> Tensor:
    """Sample the increments dW, `[num_steps, B, D]`, for B paths that start at x, `[B, D]`."""
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
    """Integrate posterior paths or, without a control, prior paths.

    The Euler method integrates the Ito equation:

        X += b dt + s sum_k omega_k dY_k,   Y_k += dY_k = (-gamma_k Y_k + u) dt + dW.

    The Milstein method integrates the Stratonovich equation. In each step, this method also adds g g' dW^2 / 2 to X,
    with g = s sum_k omega_k. If s is constant, both methods give the same result.

    Args:
        x: initial X, `[B, D]`.
        y: initial Y, `[B, D, K]`.
        dw: increments of W, `[N, B, D]`, where N = (F - 1) x `substeps` is the number of steps.
        interval: time between two successive times of the result.
        substeps: number of steps between two successive times of the result.
        gamma: mean-reversion speeds of the processes, `[K]`.
        omega: weights of the processes, `[K]`.
        drift: function b that maps X to the drift, `[B, D]`.
        diffusion: function s that maps X to the diffusion, `[B, D]`; each entry depends only on the same entry of X.
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
        pull = (y * pulled).sum(dim=-1)  # under autocast, a matrix product would use half precision
        x = x + along + s.to(x.dtype) * (total * kick - pull)
        y = y * kept + kick[..., None]
        if (step + 1) % substeps == 0:
            path.append(x)
    spent = 0.5 * dt * torch.stack(controls).square().sum(dim=(0, 2)) if controls else x.new_zeros(len(x))
    return SolutionPath(torch.stack(path, dim=1), y, spent)


def misfit(given: Tensor, observed: Tensor, sigma: Tensor | None) -> Tensor:
    """Compute sum_f |given_f - observed_f|^2 / (2 sigma_f^2), `[B]`, which is -log p(observed | X) up to a constant.

    Args:
        given: observations predicted from X, `[B, F, ...]`.
        observed: observations, `[B, F, ...]`.
        sigma: standard deviation of the observation at each time, `[F]`; None means sigma^2 = 1 / 2, so that the result
            is the sum of squared errors.
    """
    squares = (given - observed).square().flatten(2).sum(dim=2)
    return squares.sum(dim=1) if sigma is None else 0.5 * (squares * sigma.pow(-2)).sum(dim=1)
