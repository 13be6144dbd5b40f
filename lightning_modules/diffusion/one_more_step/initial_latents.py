"""Equations of the step before the first one, and what a pipeline of diffusers takes in its place."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DDIMScheduler
from torch import Tensor

from datamodules.arguments import within


def spaced(scheduler: Any, num_steps: int) -> Any:
    """Copy a scheduler of diffusers and set it to so many steps."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_steps)
    return scheduler


def first_level(scheduler: Any, num_steps: int) -> float:
    """Read abar of the first time that a scheduler of diffusers visits in so many steps."""
    return float(scheduler.alphas_cumprod[round(float(spaced(scheduler, num_steps).timesteps[0]))])


def initial_latents(
    clean: Tensor,
    fresh: Tensor,
    abar: float,
    start: Tensor | None = None,
    deviation: float | None = None,
    official_variance: bool = False,
) -> Tensor:
    """Sample what a sampler begins with: sqrt(a) x~_0 + sqrt(1 - a - s^2) z + s e.

    Args:
        clean: x~_0, `[B, ...]`.
        fresh: e, standard normal.
        abar: a, of the first time.
        start: z, the noise that x~_0 was estimated from; needed for a `deviation`.
        deviation: s, in [0, sqrt(1 - a)]. None takes the greatest, DDPM's posterior of abar_S = 0; 0 samples nothing.
        official_variance: multiply e by 1 - a, as the authors' code does, without z; takes no `deviation`.

    Raises:
        ValueError: if `deviation` is out of range, or comes without `start` or with `official_variance`.
    """
    mean, greatest = math.sqrt(abar) * clean, math.sqrt(1 - abar)
    if deviation is None:
        return mean + (1 - abar if official_variance else greatest) * fresh
    within(0, greatest, deviation=deviation)
    if official_variance or start is None:
        raise ValueError(f"deviation takes start, the first noise, and no official_variance, got {deviation}")
    return mean + deviation * fresh + math.sqrt(max(1 - abar - deviation**2, 0.0)) * start


def given_to_pipeline(state: Tensor, scheduler: Any, num_steps: int) -> Tensor:
    """Scale a first state to the `latents` that a pipeline takes, which it multiplies by `init_noise_sigma` itself.

    Schedulers such as Euler's count in x / sqrt(abar), and begin with a large sigma, which depends on the number of
    steps; for others nothing changes.
    """
    scale = float(spaced(scheduler, num_steps).init_noise_sigma)
    return state if scale == 1 else state / (math.sqrt(first_level(scheduler, num_steps)) * scale)


def zero_terminal_snr(scheduler: Any) -> DDIMScheduler:
    """Rescale a schedule so that its last level has no signal, and space steps from there; the model stays as it is.

    Source: Lin, Liu, Li and Yang, Common Diffusion Noise Schedules and Sample Steps Are Flawed, WACV 2024, arXiv
    2305.08891, without the fine-tuning that it also has.

    Raises:
        ValueError: if the model predicts noise, of which nothing of an image follows where there is no signal.
    """
    if scheduler.config.prediction_type == "epsilon":
        raise ValueError(
            "start zero_terminal_snr needs a model that predicts v_prediction or sample, got prediction_type epsilon"
        )
    changed = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return DDIMScheduler.from_config(scheduler.config, **changed)


@contextmanager
def sampled_by(scheduler: Any, model: Any) -> Iterator[None]:
    """Sample with another scheduler than a model's own; None leaves that."""
    owner = getattr(model, "pipeline", model)
    own = owner.scheduler
    owner.scheduler = own if scheduler is None else scheduler
    try:
        yield
    finally:
        owner.scheduler = own


def brightness(images: Tensor) -> Tensor:
    """Average images `[B, C, H, W]` in [0, 1] over their pixels and channels: `[B]`, in float64."""
    return images.double().flatten(1).mean(dim=1)


def brightness_measures(drawn: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Compare the brightness of images that were drawn for captions with that of real ones of the same captions.

    Args:
        drawn: brightness of the drawn images, `[n]`.
        real: brightness of the real image whose caption each was drawn for, `[n]`.

    Returns:
        `distance`, the 1-Wasserstein distance of both distributions, their standard deviations `deviation` and
        `deviation_of_data`, and the `correlation` of the pairs.
    """
    centred = [each - each.mean() for each in (drawn, real)]
    norms = (centred[0].norm() * centred[1].norm()).clamp(min=1e-300)
    return {
        "distance": (drawn.sort().values - real.sort().values).abs().mean(),
        "deviation": drawn.std(correction=0),
        "deviation_of_data": real.std(correction=0),
        "correlation": (centred[0] * centred[1]).sum() / norms,
    }
