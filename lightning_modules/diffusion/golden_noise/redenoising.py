"""Re-denoising improves initial noise for a text by a strongly guided DDIM step and a weakly guided inversion step."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_modules.backbones.diffusion.flow_transformer import FlowTransformer
from lightning_modules.sde.ddim import ddim
from lightning_modules.sde.discrete import Prediction
from lightning_modules.sde.flow_shift import shift_time


@torch.no_grad()
def redenoise(
    model: Callable[..., Any],
    less_guided: Callable[..., Any],
    noise: Tensor,
    times: Sequence[int],
    abar: ArrayLike,
    prediction: Prediction = "epsilon",
    official_offset: bool = False,
) -> Tensor:
    """Compute the improved noise x'_T.

    Args:
        model: function that makes a prediction with guidance scale w_l, from x_t and the times t, `[B]`.
        less_guided: function that makes a prediction with guidance scale w_w, from x_t and the times t, `[B]`.
        noise: x_T, `[B, c, h, w]`.
        times: timesteps from noise to image; only the first two are used, or the first three with `official_offset`.
        abar: abar of all T timesteps, `[T]`, on the CPU.
        prediction: quantity that the models predict.
        official_offset: invert between the noise levels of the third and the second timestep, as the authors' code
            does.
    """
    moved = ddim(model, noise, times[:2], abar, prediction)
    back = (times[2], times[1]) if official_offset else (times[1], times[0])
    return ddim(less_guided, moved, back, abar, prediction, told=times[:1])


@torch.no_grad()
def redenoised_flow(
    model: Callable[..., Tensor],
    less_guided: Callable[..., Tensor],
    noise: Tensor,
    levels: Sequence[float],
    num_timesteps: int,
    official_offset: bool = False,
) -> Tensor:
    """Compute the improved noise for a flow-matching model: Euler steps z_s = z_t + (s - t) v replace the DDIM steps.

    Args:
        model: function that predicts the velocity v with guidance scale w_l, from z_t and the times T t, `[B]`.
        less_guided: function that predicts the velocity v with guidance scale w_w, from z_t and the times T t, `[B]`.
        noise: z_1, `[B, c, h, w]`.
        levels: sampling times t, from 1 (noise) to 0 (data); only the first two are used, or the first three with
            `official_offset`.
        num_timesteps: T, number of timesteps of the model.
        official_offset: invert between the third and the second sampling time, as the authors' code does.
    """
    told = torch.full((len(noise),), num_timesteps * levels[0], device=noise.device, dtype=noise.dtype)
    moved = noise + (levels[1] - levels[0]) * model(noise, told)
    start, end = (levels[2], levels[1]) if official_offset else (levels[1], levels[0])
    return moved + (end - start) * less_guided(moved, told)


def flow_levels(model: FlowTransformer, latent_shape: Sequence[int], num_steps: int) -> NDArray[np.float64]:
    """List the `num_steps` + 1 sampling times of a flow-matching model, from 1 to 0, for latents of shape (c, h, w)."""
    shift = model.time_shift(latent_shape[1] * latent_shape[2] // model.patch_size**2, num_steps)
    return np.array([shift_time(1 - step / num_steps, shift) for step in range(num_steps + 1)])
