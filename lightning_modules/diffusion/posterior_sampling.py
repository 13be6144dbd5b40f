"""DDIM sampling that is guided by measurements, as in DPS and PiGDM."""

import itertools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from datamodules.corruptions.operators.interface import Operator
from lightning_modules.diffusion.measured_restoration import Draw, MeasuredRestoration, Model, Problem
from lightning_modules.sde.ddim import ddim_deviation, ddim_step, level
from lightning_modules.sde.discrete import (
    Prediction,
    add_diffusion_noise,
    clean_estimate,
    noise_estimate,
    run_diffusion_model,
)

Guidance = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""Function of x_t, an estimate of the clean image and sqrt(abar_s abar_t). The estimate is differentiable with respect
to x_t. The function returns the estimate for the step from t to s, and a correction that is added after the step; both
are detached."""


def guided_ddim(
    model: Callable[..., Any],
    x: Tensor,
    times: Sequence[int],
    abar: ArrayLike,
    guidance: Guidance,
    prediction: Prediction = "epsilon",
    eta: float = 0.0,
    draw: Draw = torch.randn_like,
) -> Tensor:
    """Sample images by DDIM with guidance.

    Args:
        model: diffusion model, called with x_t and times t, `[B]`.
        x: noisy images at the first timestep, `[B, C, H, W]`.
        times: timesteps in decreasing order; the last one is -1, which stands for the clean image.
        abar: abar of all T timesteps, `[T]`, on the CPU.
        guidance: see `Guidance`.
        prediction: quantity that the model predicts.
        eta: factor of the noise that is added in each step, in [0, 1].
        draw: function that samples standard normal noise with the shape of its argument; used if `eta` is above 0.

    Returns:
        Images, `[B, C, H, W]`, on the scale of images in [-1, 1], but not clipped to this range.
    """
    for t, s in itertools.pairwise(times):
        here, there = level(abar, t), level(abar, s)
        x = x.detach().requires_grad_(True)
        output = run_diffusion_model(model, x, t)
        estimate, correction = guidance(x, clean_estimate(output, x, here, prediction), (there * here) ** 0.5)
        noise = noise_estimate(output.detach(), x.detach(), here, prediction)
        deviation = ddim_deviation(here, there, eta)
        x = ddim_step(estimate, noise, there, deviation, draw(x) if deviation else None) + correction
    return x.detach()


class PosteriorSampling(MeasuredRestoration):
    """Mixin that samples by guided DDIM, for DPS and PiGDM; subclasses implement `guidance`."""

    eta: float

    @abstractmethod
    def guidance(self, measured: Tensor, operator: Operator) -> Guidance:
        """Return the guidance function for a batch of measurements."""

    def reconstruct(self: Any, model: Model, problem: Problem) -> Tensor:
        times, start = self.times(), problem.operator.pseudo_inverse(problem.measured)
        x = add_diffusion_noise(start, problem.draw(start), level(self.abar, times[0]))
        guidance = self.guidance(problem.measured, problem.operator)
        return guided_ddim(model, x, times, self.abar, guidance, self.prediction, self.eta, problem.draw)
