"""Re-denoising: a strongly guided DDIM step and a weakly guided inversion step give better noise for a text."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lightning_modules.sde.ddim import ddim
from lightning_modules.sde.discrete import Prediction


@torch.no_grad()
def redenoised(
    model: Callable[..., Any],
    less_guided: Callable[..., Any],
    noise: Tensor,
    times: Sequence[int],
    abar: ArrayLike,
    prediction: Prediction = "epsilon",
    official_offset: bool = False,
) -> Tensor:
    """Compute x'_T.

    Args:
        model: function of x_t and t, `[B]`, that predicts with guidance w_l.
        less_guided: function of x_t and t that predicts with guidance w_w.
        noise: x_T, `[B, c, h, w]`.
        times: timesteps from noise to image; only the first two are used, or three with `official_offset`.
        abar: abar of all T timesteps, `[T]`, on the host.
        prediction: quantity that the models predict.
        official_offset: invert between the noise levels of the third and the second timestep, as the authors' code
            does.
    """
    moved = ddim(model, noise, times[:2], abar, prediction)
    back = (times[2], times[1]) if official_offset else (times[1], times[0])
    return ddim(less_guided, moved, back, abar, prediction, told=times[:1])
