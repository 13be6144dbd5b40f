"""Solve the probability-flow ODE of a diffusion process numerically, to a given tolerance.

Solutions of this ODE provide samples, latents and exact likelihoods. With the score s, the ODE is

    dx/dt = f(x, t) - g(t)^2 s(x, t) / 2

The solutions have the same marginal distributions as the diffusion process. Along a solution, the log density changes
by the integral of the divergence (div) of the right-hand side. The divergence is estimated as e^T (J e), where J is the
Jacobian of the right-hand side and e is a vector of random signs that is sampled once:

    log p_0(x_0) = log p_1(x_1) + int_0^1 div dt.

Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, Score-Based Generative Modeling through Stochastic
Differential Equations, ICLR 2021, arXiv 2011.13456, section 4.3 and appendix D; the divergence by Grathwohl et al.,
FFJORD, ICLR 2019, arXiv 1810.01367.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from datamodules.arguments import positive, within
from lightning_modules.sde.processes import Process, along
from lightning_modules.sde.samplers import Draw, Project, Score, reverse_diffusion, times_of


class Solved(NamedTuple):
    """A solution of the ODE, and the number of network evaluations that the solver made."""

    x: Tensor
    evaluations: int
    """Number of evaluations of the right-hand side; each evaluation processes the whole batch."""


class Likelihood(NamedTuple):
    """The log density of data, the latents of the data, and the number of network evaluations that this took."""

    log_density: Tensor
    """Natural logarithm of the density, `[B]`, in float64 on the CPU."""
    latent: Tensor
    """Latents x_1, with the shape of the data."""
    evaluations: int


def flow_drift(score: Score, x: Tensor, t: float, process: Process) -> Tensor:
    """Compute the right-hand side of the probability-flow ODE for samples x at time t."""
    time = torch.tensor([t], dtype=torch.float64, device="cpu")
    return process.drift(x, time) - 0.5 * along(process.diffusion(time), x) ** 2 * score(x, times_of(x, t))


def _integrate(
    right: Callable[[float, NDArray], NDArray], start: float, end: float, state: NDArray, tolerance: float
) -> tuple[NDArray, int]:
    solution = solve_ivp(right, (start, end), state, rtol=tolerance, atol=tolerance, method="RK45", t_eval=[end])
    if not solution.success:
        raise RuntimeError(f"the probability-flow ODE could not be solved to {tolerance:g}: {solution.message}")
    return solution.y[:, -1], int(solution.nfev)


def solve_flow(score: Score, x: Tensor, process: Process, start: float, end: float, tolerance: float = 1e-5) -> Solved:
    """Solve the probability-flow ODE for a batch of samples, from time `start` to time `end`.

    The solver takes Runge-Kutta steps of orders 4 and 5. All samples of a batch share the step sizes. The other samples
    of a batch can therefore change the result for a sample, within the tolerance.

    Args:
        score: see `samplers.Score`.
        x: samples at time `start`, `[B, ...]`, real or complex.
        process: the diffusion process.
        start: time of the samples x.
        end: time of the result. To encode data, choose `end` larger than `start`; to sample, choose it smaller.
        tolerance: absolute and relative tolerance.

    Raises:
        RuntimeError: if the solver cannot reach the tolerance with any step size.
    """
    kind = np.complex128 if x.is_complex() else np.float64

    def right(t: float, state: NDArray) -> NDArray:
        here = torch.from_numpy(state).view(x.shape).to(x)
        return flow_drift(score, here, t, process).detach().cpu().numpy().astype(kind).ravel()

    state, evaluations = _integrate(right, start, end, x.detach().cpu().numpy().astype(kind).ravel(), tolerance)
    return Solved(torch.from_numpy(state).view(x.shape).to(x), evaluations)


def likelihood(
    score: Score, x: Tensor, process: Process, signs: Tensor, start: float = 1e-5, tolerance: float = 1e-5
) -> Likelihood:
    """Compute the log density of real-valued data under the model that is defined by the probability-flow ODE.

    Args:
        score: see `samplers.Score`; must be differentiable with respect to x.
        x: data, `[B, ...]`.
        process: the diffusion process.
        signs: random signs e, each -1 or 1, with the shape of x.
        start: time at which the ODE starts from the data; slightly above 0.
        tolerance: absolute and relative tolerance.

    Raises:
        RuntimeError: if the solver cannot reach the tolerance with any step size.
    """
    size = x.numel()

    def right(t: float, state: NDArray) -> NDArray:
        with torch.inference_mode(False), torch.enable_grad():
            here = torch.from_numpy(state[:size]).view(x.shape).to(x.device, x.dtype).requires_grad_()
            drift = flow_drift(score, here, t, process)
            [slope] = torch.autograd.grad((drift * signs).sum(), here)
        divergence = (slope * signs).flatten(1).sum(dim=1)
        parts = [value.detach().cpu().double().numpy().ravel() for value in (drift, divergence)]
        return np.concatenate(parts)

    with torch.inference_mode(False):
        x, signs = x.clone(), signs.clone()
    begin = np.concatenate([x.cpu().double().numpy().ravel(), np.zeros(len(x))])
    state, evaluations = _integrate(right, start, 1.0, begin, tolerance)
    latent = torch.from_numpy(state[:size]).view(x.shape)
    log_density = process.prior_log_density(latent) + torch.from_numpy(state[size:])
    return Likelihood(log_density, latent.to(x), evaluations)


def bits_per_dimension(log_density: Tensor, dimensions: int, width: float) -> Tensor:
    """Convert log densities of images to bits per dimension, for images with 256 levels.

    Args:
        log_density: natural logarithms of the densities, `[B]`.
        dimensions: number of values in an image, D.
        width: difference between white and black on the scale of the images: 2 for images in [-1, 1], and 1 for images
            in [0, 1].
    """
    return -log_density / (dimensions * math.log(2)) + 8 - math.log2(width)


class ProbabilityFlow:
    """Sample by solving the probability-flow ODE to a tolerance.

    Args:
        tolerance: absolute and relative tolerance of the Runge-Kutta solver of orders 4 and 5.
        end: final time; None uses the default of the process: 1e-5 for VE, and 1e-3 for VP and sub-VP.
        denoise: whether to take an additional noise-free step to time 0, with a step size of 1 / 1,000.
    """

    def __init__(self, tolerance: float = 1e-5, end: float | None = None, denoise: bool = False) -> None:
        positive(tolerance=tolerance)
        within(0, 1, "()", end=end)
        self.tolerance = tolerance
        self.end = end
        self.denoise = denoise

    def __call__(self, score: Score, x: Tensor, process: Process, draw: Draw, project: Project | None = None) -> Tensor:
        """Transform samples x of the prior, `[B, ...]`, into samples of the data distribution."""
        if project is not None:
            raise ValueError("sampler: the probability flow cannot condition on known pixels; use another sampler")
        end = process.sampling_end if self.end is None else self.end
        x = solve_flow(score, x, process, 1.0, end, self.tolerance).x
        return reverse_diffusion(score, x, end, 1000, process, draw).mean if self.denoise else x
