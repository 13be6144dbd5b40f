"""Sampling steps of the refiner. Half of the steps stay at one noise level; the other steps decrease the noise to zero.

N steps of length gap = T // N would have the timesteps gap (N - 1), ..., gap, 0. The first M = N // 2 timesteps of this
list are replaced with the (M + 1)-th timestep, and then 1 is added to all timesteps. For N = 10, the timesteps are 401
six times, and then 301, 201, 101 and 1. Let x_0hat be the refiner's estimate of x_0 from x and t_k. Step k = 0, 1, ...
computes the next x as

    k + 1 < M:    sqrt(abar_t) x_0hat + sqrt(1 - abar_t) n,   n ~ N(0, I): fresh noise at the same level;
    k + 1 = M:    DDIM to the same level, as if x had the level t + gap;
    k + 1 > M:    DDIM to t_{k+1}; abar of the last timestep is still below 1.

The result of the refinement is the last x_0hat. Apart from the M - 1 samples of n, the steps are deterministic.
"""

import itertools
from collections.abc import Callable, Sequence

from numpy.typing import ArrayLike
from torch import Tensor

from datamodules.arguments import within
from lightning_modules.sde.ddim import ddim_step, level
from lightning_modules.sde.discrete import add_diffusion_noise, noise_estimate, run_diffusion_model


def refinement_times(steps: int, num_train_timesteps: int = 1000, repeated: bool = True) -> list[int]:
    """List the `steps` timesteps of the refiner.

    Args:
        steps: N, number of steps, at most T / 2.
        num_train_timesteps: T, number of timesteps in training.
        repeated: take the first half of the steps at one noise level; if false, the timesteps are those of plain DDIM,
            which start near pure noise.
    """
    within(1, num_train_timesteps // 2, steps=steps)
    gap, repeats = num_train_timesteps // steps, steps // 2
    times = [gap * k for k in reversed(range(steps))]
    if repeated:
        times[:repeats] = [times[repeats]] * repeats
    return [time + 1 for time in times]


def refine(
    refiner: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    times: Sequence[int],
    abar: ArrayLike,
    draw: Callable[[Tensor], Tensor],
) -> Tensor:
    """Refine initial latents, by the steps that the module docstring defines; return an estimate of x_0.

    Args:
        refiner: function that estimates x_0 from x and the timesteps, `[B]`.
        x: initial latents at the first timestep, `[B, c, h, w]`.
        times: timesteps from `refinement_times`.
        abar: abar of all T timesteps, `[T]`, on the CPU.
        draw: function that samples standard normal noise with the shape of its argument.

    Returns:
        Estimate of x_0, `[B, c, h, w]`.
    """
    repeats, gap = times.count(times[0]) - 1, len(abar) // len(times)  # type: ignore[arg-type]
    clean = run_diffusion_model(refiner, x, times[0])
    for k, (t, following) in enumerate(itertools.pairwise(times), start=1):
        if k < repeats:
            x = add_diffusion_noise(clean, draw(clean), level(abar, t))
        else:
            from_level = level(abar, t + gap if k == repeats else t)
            x = ddim_step(clean, noise_estimate(clean, x, from_level, "sample"), level(abar, following))
        clean = run_diffusion_model(refiner, x, following)
    return clean
