"""Equations of One More Step, and conversion of initial latents to the argument `latents` of a diffusers pipeline."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DDIMScheduler
from torch import Tensor

from datamodules.arguments import within
from lightning_modules.backbones.diffusion.pipelines import reject_flow_matching
from lightning_modules.interfaces import Table
from lightning_modules.sde.discrete import scheduler_levels


def with_timesteps(scheduler: Any, num_steps: int) -> Any:
    """Copy a diffusers scheduler, and set the copy to `num_steps` sampling steps."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_steps)
    return scheduler


def first_level(scheduler: Any, num_steps: int) -> float:
    """Return abar at the first timestep of a diffusers scheduler with `num_steps` sampling steps.

    The scheduler may be created on the meta device, as in the checks that `compare` makes before its runs.
    """
    reason = "corrects schedules that do not reach pure noise, which those of flow matching do"
    reject_flow_matching(scheduler, "OneMoreStep", reason)
    return float(scheduler_levels(scheduler)[round(float(with_timesteps(scheduler, num_steps).timesteps[0]))])


def initial_latents(
    clean: Tensor,
    fresh: Tensor,
    abar: float,
    start: Tensor | None = None,
    deviation: float | None = None,
    official_variance: bool = False,
) -> Tensor:
    """Compute the initial latents of a sampler, sqrt(a) x~_0 + sqrt(1 - a - s^2) z + s e.

    Args:
        clean: x~_0, estimate of the image, `[B, ...]`.
        fresh: e, standard normal noise.
        abar: a, value of abar at the sampler's first timestep.
        start: z, the noise from which x~_0 was estimated. It is required if `deviation` is not None.
        deviation: s, standard deviation of the new noise e, in [0, sqrt(1 - a)]. With 0, no new noise is added. None
            uses the maximum, as in DDPM's posterior for abar_S = 0.
        official_variance: multiply e by 1 - a and omit z, as the authors' code does; cannot be combined with
            `deviation`.
    """
    mean, greatest = math.sqrt(abar) * clean, math.sqrt(1 - abar)
    if deviation is None:
        return mean + (1 - abar if official_variance else greatest) * fresh
    within(0, greatest, deviation=deviation)
    if official_variance or start is None:
        raise ValueError(f"deviation needs start and cannot be combined with official_variance, got {deviation}")
    return mean + deviation * fresh + math.sqrt(max(1 - abar - deviation**2, 0.0)) * start


def given_to_pipeline(state: Tensor, scheduler: Any, num_steps: int) -> Tensor:
    """Convert initial latents to a pipeline's argument `latents`.

    A pipeline multiplies `latents` by the `init_noise_sigma` of its scheduler. This factor is 1 for most schedulers,
    and the latents are then returned unchanged. Other schedulers, such as those for Euler steps, work with x /
    sqrt(abar); their factor is large, and depends on the number of steps.
    """
    scale = float(with_timesteps(scheduler, num_steps).init_noise_sigma)
    return state if scale == 1 else state / (math.sqrt(first_level(scheduler, num_steps)) * scale)


def zero_terminal_snr(scheduler: Any) -> DDIMScheduler:
    """Copy a scheduler, with the noise schedule rescaled to zero terminal SNR and with trailing timestep spacing.

    Source: Lin, Liu, Li and Yang, Common Diffusion Noise Schedules and Sample Steps Are Flawed, WACV 2024, arXiv
    2305.08891, without its fine-tuning.
    """
    if scheduler.config.prediction_type == "epsilon":
        raise ValueError(
            "start zero_terminal_snr needs a model that predicts v_prediction or sample, got prediction_type epsilon"
        )
    changed = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return DDIMScheduler.from_config(scheduler.config, **changed)


@contextmanager
def sampled_by(scheduler: Any, model: Any) -> Iterator[None]:
    """Replace a model's scheduler inside a `with` block; None keeps the model's own scheduler."""
    owner = getattr(model, "pipeline", model)
    own = owner.scheduler
    owner.scheduler = own if scheduler is None else scheduler
    try:
        yield
    finally:
        owner.scheduler = own


def brightness(images: Tensor) -> Tensor:
    """Compute the mean brightness of each image, `[B]` in float64, from images `[B, C, H, W]` in [0, 1]."""
    return images.double().flatten(1).mean(dim=1)


def brightness_table(generated: Tensor, real: Tensor) -> Table:
    """Tabulate the mean brightness of generated images against the brightness of the real images.

    Each generated image is paired with the real image that has the same caption. The pairs are sorted by the brightness
    of the real image and divided into ten groups of equal size.

    Args:
        generated: mean brightness of each generated image, `[n]`.
        real: mean brightness of the real image with the same caption, `[n]`.
    """
    order = real.argsort()
    groups = [] if real.is_meta else [rows for rows in order.tensor_split(10) if len(rows)]  # meta tensors lack values
    named = {"brightness of real images": real, "brightness of samples": generated}
    return Table({name: [values[rows].mean().item() for rows in groups] for name, values in named.items()})


def brightness_measures(drawn: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Compare the brightness of generated images with that of the real images that have the same captions.

    Args:
        drawn: mean brightness of each generated image, `[n]`, in the order of `real`.
        real: mean brightness of the real image with the same caption, for each generated image, `[n]`.

    Returns:
        `distance` is the 1-Wasserstein distance between the two distributions of brightness. `deviation` is the
        standard deviation of the brightness of generated images, and `deviation_of_data` is that of real images.
        `correlation` is the correlation between the brightness of a generated image and of the real image with the same
        caption.
    """
    centred = [each - each.mean() for each in (drawn, real)]
    norms = (centred[0].norm() * centred[1].norm()).clamp(min=1e-300)
    return {
        "distance": (drawn.sort().values - real.sort().values).abs().mean(),
        "deviation": drawn.std(correction=0),
        "deviation_of_data": real.std(correction=0),
        "correlation": (centred[0] * centred[1]).sum() / norms,
    }
