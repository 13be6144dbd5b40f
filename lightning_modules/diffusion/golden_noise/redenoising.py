"""One guided step from noise towards an image, and one less guided step back: to better noise for the same text."""

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
        model: called with x_t and t, `[B]`, it predicts with guidance w_l.
        less_guided: predicts with guidance w_w.
        noise: x_T, `[B, c, h, w]`.
        times: path from noise to an image, of which the first two count, and with `official_offset` the third.
        abar: `[T]`, on the host.
        prediction: quantity that the models predict.
        official_offset: step back between the levels of the third and the second time, as the authors' code does.
    """
    moved = ddim(model, noise, times[:2], abar, prediction)
    back = (times[2], times[1]) if official_offset else (times[1], times[0])
    return ddim(less_guided, moved, back, abar, prediction, told=times[:1])
