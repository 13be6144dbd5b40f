"""Denoising diffusion implicit models (DDIM): generate images from noise in few steps, or encode images to noise.

    x_s = sqrt(abar_s) x + sqrt(1 - abar_s - sigma^2) e + sigma z,
    sigma^2 = eta^2 (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s).

Here x and e are the model's estimates of the image and of the noise, computed from x_t, and z is standard normal noise.
With eta = 0, no noise is added. The steps then solve an ordinary differential equation, and steps towards later times
encode an image. With eta = 1 and steps through all T times, DDIM is the ancestral sampler of DDPM.

A path is a list of times. The time -1 stands for the image itself, with abar = 1.

Source: Song, Meng and Ermon, Denoising Diffusion Implicit Models, ICLR 2021, arXiv 2010.02502, equations 12, 14 and 16.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from datamodules.arguments import within
from lightning_modules.sde.discrete import Prediction, clean_estimate, noise_estimate, run_diffusion_model


def scheduler_path(scheduler: Any, num_steps: int) -> list[int]:
    """List the `num_steps + 1` times of a path from noise to an image.

    The times are spaced as the diffusers scheduler spaces them. The final time is -1, or 0 for a scheduler with
    `set_alpha_to_one: false`. In reverse order, the list is a path from an image to noise.

    Raises:
        ValueError: if the scheduler has fewer times than `num_steps`.
    """
    within(1, scheduler.config.num_train_timesteps, num_steps=num_steps)
    spaced = copy.deepcopy(scheduler)
    spaced.set_timesteps(num_steps)
    return [*spaced.timesteps.tolist(), -1 if scheduler.config.get("set_alpha_to_one", True) else 0]


def level(abar: ArrayLike, t: int) -> float:
    """Return abar_t, entry t of the array `abar` with shape `[T]`.

    At time -1, the result is 1.
    """
    return 1.0 if t < 0 else float(np.asarray(abar)[t])


def ddim_deviation(abar: float, abar_to: float, eta: float = 1.0) -> float:
    """Compute sigma, the standard deviation of the noise that a step from level `abar` to level `abar_to` adds."""
    if abar_to <= abar:
        return 0.0
    return eta * ((1 - abar_to) / (1 - abar) * (1 - abar / abar_to)) ** 0.5


def ddim_step(
    clean: Tensor, noise: Tensor, abar_to: float, deviation: float = 0.0, drawn: Tensor | None = None
) -> Tensor:
    """Take one step to the noise level `abar_to`.

    The new level may be lower or higher than the current level.

    Args:
        clean: estimate of the image x, `[B, C, H, W]`, where black is -1 and white is 1.
        noise: estimate of the noise e.
        abar_to: abar_s, noise level after the step.
        deviation: standard deviation sigma of the added noise; see `ddim_deviation`.
        drawn: standard normal noise z; required unless `deviation` is 0.
    """
    moved = abar_to**0.5 * clean + max(1 - abar_to - deviation**2, 0.0) ** 0.5 * noise
    return moved if drawn is None else moved + deviation * drawn


def ddim(
    model: Callable[..., Any],
    x: Tensor,
    times: Sequence[int],
    abar: ArrayLike,
    prediction: Prediction = "epsilon",
    eta: float = 0.0,
    draw: Callable[[Tensor], Tensor] = torch.randn_like,
    clip: bool = False,
    told: Sequence[int] | None = None,
) -> Tensor:
    """Move images along a path of times by DDIM steps.

    A path with decreasing times turns noise into images; a path with increasing times encodes images.

    Args:
        model: diffusion model, called with x_t and times t, `[B]`; see `run_diffusion_model`.
        x: samples x_t at the first time of the path, `[B, C, H, W]`.
        times: times of the path, in order; see `scheduler_path`.
        abar: abar of all T timesteps, `[T]`, on the CPU.
        prediction: quantity that the model predicts.
        eta: factor, in [0, 1], of the noise that is added in steps towards images. Steps towards noise add no noise.
        draw: function that samples standard normal noise with the shape of its argument; used if `eta` is above 0.
        clip: whether to clip each estimate of the image to [-1, 1]; the estimate of the noise is not changed.
        told: times that are passed to the model, one for each step. None passes the time at which each step starts, or
            0 for a step that starts from an image. The inverse scheduler of diffusers instead passes the time at which
            each step ends.

    Returns:
        Samples at the final time, `[B, C, H, W]`.
    """
    within(0, 1, eta=eta)
    for step, (t, s) in enumerate(itertools.pairwise(times)):
        here, there = level(abar, t), level(abar, s)
        output = run_diffusion_model(model, x, max(t, 0) if told is None else told[step])
        clean, noise = (estimate(output, x, here, prediction) for estimate in (clean_estimate, noise_estimate))
        deviation = ddim_deviation(here, there, eta)
        drawn = draw(x) if deviation else None
        x = ddim_step(clean.clamp(-1, 1) if clip else clean, noise, there, deviation, drawn)
    return x
