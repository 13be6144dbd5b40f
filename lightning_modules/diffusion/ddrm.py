"""DDRM reconstructs an image from a linear measurement, by diffusion sampling in the singular basis of the operator.

The measurement of an image x is y = H x + s_y n with a linear operator H = U S V^T. The noisy image z_t = x + s_t e has
the noise level s_t = sqrt((1 - abar_t) / abar_t). Here n and e are standard normal noise. All images are decomposed
into components along the columns of V. For a column with singular value S, let y' be the component of H^+ y, where H^+
is the pseudo-inverse of H, and let x^ be the component of the image that the network estimates from z_t. A step from t
to u < t samples the component of z_u with

    mean x^ + sqrt(1 - eta^2) s_u (z_t - x^) / s_t        and deviation eta s_u,   if S = 0,
    mean x^ + sqrt(1 - eta^2) s_u (y' - x^) / (s_y / S)   and deviation eta s_u,   if s_u < s_y / S,
    mean (1 - eta_b) x^ + eta_b y'                        and variance s_u^2 - (eta_b s_y / S)^2,   otherwise.

At the first timestep, T, components with s_y / S < s_T have mean y' and variance s_T^2 - (s_y / S)^2. The other
components have mean 0 and variance s_T^2. DDRM does not require gradients of the network.

Departures: in the last step, s_u is 0. For a measurement without noise, the third rule then uses y' in measured
directions: with eta_b = 1, y' replaces x^, as in the paper. The authors' code keeps x^ in the last step. The network
receives sqrt(abar_t) z_t in all steps. In the first step, the authors' code passes z_T / s_T, which is larger by the
factor 1 / sqrt(1 - abar_T): by 0.005 % for the linear schedule with 20 steps.

Source: Kawar, Elad, Ermon and Song, Denoising Diffusion Restoration Models, NeurIPS 2022, arXiv 2201.11793, equations 7
and 8, with eta and eta_b of the authors' code.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from numpy.typing import ArrayLike
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.corruptions.operators.interface import LinearOperator
from lightning_modules.diffusion.measured_restoration import Draw, MeasuredRestoration, Model, Problem
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol
from lightning_modules.optim.optimizers import adam, constant
from lightning_modules.sde.ddim import level
from lightning_modules.sde.discrete import Prediction, clean_estimate, run_diffusion_model


class Gains(NamedTuple):
    """Factors of the terms in a sampling step, with one entry for each singular value."""

    clean: Tensor
    """Factor of x^."""
    moved: Tensor
    """Factor of z_t."""
    measured: Tensor
    """Factor of y'."""
    noise: Tensor
    """Standard deviation of the new noise."""


def gains(singular: Tensor, here: float, there: float, sigma: float, eta: float, eta_b: float) -> Gains:
    """Compute the factors of the terms in a sampling step from noise level s_t = `here` to noise level s_u = `there`.

    Args:
        singular: singular values S, of any shape; the singular value of an unmeasured direction is 0.
        here: s_t, noise level before the step.
        there: s_u, noise level after the step.
        sigma: s_y, standard deviation of the measurement noise.
        eta: see the module docstring.
        eta_b: see the module docstring.
    """
    missing = singular == 0
    certain = ~missing & (singular * there >= sigma)
    kept = (1 - eta**2) ** 0.5 * there
    to_measured = kept * singular / (sigma or 1.0)  # used only if sigma > 0
    measured = torch.where(certain, eta_b, to_measured)
    variance = there**2 - (eta_b * sigma / singular.where(certain, 1.0)).square()
    moved = singular.new_full((), kept / here) * missing
    return Gains(1 - measured - moved, moved, measured, variance.clamp(min=0).sqrt().where(certain, eta * there))


def _one(name: str, step: Callable[[Tensor], Gains]) -> Callable[[Tensor], Tensor]:
    return lambda singular: getattr(step(singular), name)


def ddrm(
    model: Callable[..., Any],
    measured: Tensor,
    operator: LinearOperator,
    times: Sequence[int],
    abar: ArrayLike,
    prediction: Prediction = "epsilon",
    sigma: float = 0.0,
    eta: float = 0.85,
    eta_b: float = 1.0,
    draw: Draw = torch.randn_like,
) -> Tensor:
    """Reconstruct images from their measurements.

    Args:
        model: diffusion model, called with x_t and times t, `[B]`.
        measured: y, `[B, ...]`.
        operator: linear operator H.
        times: timesteps in decreasing order; the last one is -1, which stands for the clean image.
        abar: abar of all T timesteps, `[T]`, on the CPU.
        prediction: quantity that the model predicts.
        sigma: s_y, standard deviation of the measurement noise for images in [-1, 1].
        eta: standard deviation of new noise divided by s_u, in [0, 1]. It applies to directions that are unmeasured or
            whose measurement noise s_y / S exceeds s_u.
        eta_b: weight of the measurement, in [0, 1], for all other directions.
        draw: function that samples standard normal noise with the shape of its argument.

    Returns:
        Reconstructed images, `[B, C, H, W]`, on the scale of images in [-1, 1], but not clipped to this range.
    """
    levels = [((1 - level(abar, t)) / level(abar, t)) ** 0.5 for t in times]
    inverse = operator.pseudo_inverse(measured)

    def known(singular: Tensor) -> Tensor:
        return ((singular > 0) & (singular * levels[0] > sigma)).to(singular)

    def deviation(singular: Tensor) -> Tensor:
        lower = (sigma / singular.where(singular > 0, 1.0)) * known(singular)
        return (levels[0] ** 2 - lower.square()).clamp(min=0).sqrt()

    z = operator.apply_filter(inverse, known) + operator.apply_filter(draw(inverse), deviation)
    for (t, here), (_, there) in itertools.pairwise(zip(times, levels, strict=True)):
        x = level(abar, t) ** 0.5 * z
        clean = clean_estimate(run_diffusion_model(model, x, t), x, level(abar, t), prediction)
        step = partial(gains, here=here, there=there, sigma=sigma, eta=eta, eta_b=eta_b)
        parts = {"clean": clean, "moved": z, "measured": inverse, "noise": draw(z)}
        found = [operator.apply_filter(part, _one(name, step)) for name, part in parts.items()]
        z = torch.stack(found).sum(dim=0)
    return z


class DDRM(MeasuredRestoration, MethodModule):
    """Reconstruct images from linear measurements in `test` and `predict`, by denoising diffusion restoration (DDRM).

    The standard deviation of the measurement noise is read from the DataModule (`data.sigma`).

    Args:
        network: diffusion model, called with noisy images (clean images are in [-1, 1]) and timesteps `[B]`. Its output
            is a tensor `[B, C or 2 C, H, W]`, or a diffusers output whose attribute `sample` is such a tensor. `fit`
            trains the network's trainable parameters.
        scheduler: scheduler with which the network was trained; only its noise levels and prediction type are used.
        steps: number of sampling steps.
        eta: standard deviation of new noise divided by the noise level, in [0, 1]. It applies to directions that are
            unmeasured or whose measurement noise exceeds the noise level.
        eta_b: weight of the measurement, in [0, 1], for all other directions.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips them to [0, 1] and rounds them
            to 256 levels, `clipped` only clips them, and `unclipped` does not change them.
        optimizer: optimizer of the network's trainable parameters in `fit`.
        lr_scheduler: learning-rate schedule, stepped after every epoch of `fit`.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from datamodules.corruptions.operators import AverageDownsampling
        >>> from lightning_modules.networks.time_conditioned_mlp import TimeConditionedImageMLP
        >>> model = DDRM(TimeConditionedImageMLP(64), DDIMScheduler(), steps=5)
        >>> model.restore(torch.full((2, 1, 4, 4), 0.5), AverageDownsampling(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        scheduler: DDPMScheduler | DDIMScheduler,
        steps: int = 20,
        eta: float = 0.85,
        eta_b: float = 1.0,
        protocol: EvaluationProtocol = "clipped",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__(network, scheduler, steps, protocol, optimizer, lr_scheduler)
        within(0, 1, eta=eta, eta_b=eta_b)
        self.eta = eta
        self.eta_b = eta_b

    @torch.no_grad()
    def reconstruct(self, model: Model, problem: Problem) -> Tensor:
        measured, operator, sigma, draw, _ = problem
        if not isinstance(operator, LinearOperator):
            raise ValueError(
                f"data.operator must be linear for DDRM, such as AverageDownsampling, got {type(operator).__name__}"
            )
        prediction, times = self.prediction, self.times()
        return ddrm(model, measured, operator, times, self.abar, prediction, sigma, self.eta, self.eta_b, draw)
