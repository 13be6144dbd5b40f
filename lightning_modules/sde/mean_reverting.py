"""Mean-reverting process from clean to degraded images, in discrete time, and samplers of the reverse process.

    dx = theta_t (mu - x) dt + sigma_t dw,    sigma_t^2 = 2 lambda^2 theta_t

The process starts at the clean image x_0. It approaches mu plus noise of standard deviation lambda, where mu is the
degraded image. With r_t = theta_t dt, R_t = r_1 + ... + r_t and standard normal noise e, the marginals are

    x_t = mu + w_t (x_0 - mu) + s_t e,    w_t = e^{-R_t},  s_t = lambda sqrt(1 - w_t^2),    t = 0 ... T.

A network estimates the noise e in x_t. With this estimate n, the score is -n / s_t. A reverse step goes from t to s <
t. With r = R_t - R_s, the three samplers compute:

    euler       x_s = x_t - r (mu - x_t) - 2 lambda^2 r n / s_t + lambda sqrt(2 r) e
    ode         x_s = x_t - r (mu - x_t) - lambda^2 r n / s_t
    posterior   x_s = mu + A (1 - C^2) / (1 - B^2) (x_t - mu) + C (1 - A^2) / (1 - B^2) (x^ - mu)
                      + lambda sqrt((1 - A^2) (1 - C^2) / (1 - B^2)) e

Here A = e^{-r}, B = w_t, C = w_s. The estimated clean image is x^ = mu + (x_t - mu - s_t n) / w_t. The `posterior`
sampler samples x_s from its distribution given x_t and x^. It is useful if there are few steps.

Source: Luo, Gustafsson, Zhao, Sjolund and Schon, Image Restoration with Mean-Reverting Stochastic Differential
Equations, ICML 2023, arXiv 2301.11699.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, positive, within
from lightning_modules.sde.processes import along

Schedule = Literal["cosine", "linear", "constant"]
Sampler = Literal["euler", "ode", "posterior"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "linear", "constant")
SAMPLERS: tuple[Sampler, ...] = ("euler", "ode", "posterior")


def rates(schedule: Schedule, steps: int) -> NDArray[np.float64]:
    """Compute the rates theta_0, ..., theta_T for T steps, up to a constant factor."""
    if schedule == "constant":
        return np.ones(steps + 1)
    if schedule == "linear":
        scale = 1000 / (steps + 1)
        return np.linspace(1e-4 * scale, 0.02 * scale, steps + 1)
    place = np.linspace(0, 1, steps + 3)
    level = np.cos((place + 0.008) / 1.008 * math.pi / 2) ** 2
    return 1 - level[1:-1] / level[0]


class MeanReverting(nn.Module):
    """The mean-reverting process, and sampling steps that reverse it.

    Args:
        steps: T, number of steps of the process.
        schedule: schedule of the rates theta_t: `cosine`, `linear` or `constant`.
        deviation: lambda, standard deviation of the noise at the end of the process, in the units of the images.
        remaining: w_T, fraction of x_0 - mu that remains at the end of the process, in (0, 1).

    Raises:
        ValueError: if an argument is out of range.
    """

    rate: Tensor
    """r_t, used in the step from t to t - 1, `[T + 1]`. Entry 0 of this and of the following buffers is unused."""
    kept: Tensor
    """w_t, `[T + 1]`."""
    std: Tensor
    """s_t, `[T + 1]`."""
    towards: Tensor
    """Weight of x_t - mu in the mean of x_{t-1} given x_t and x_0, `[T + 1]`."""
    back: Tensor
    """Weight of x_0 - mu in the mean of x_{t-1} given x_t and x_0, `[T + 1]`."""

    def __init__(
        self, steps: int = 100, schedule: Schedule = "cosine", deviation: float = 50 / 255, remaining: float = 0.005
    ) -> None:
        super().__init__()
        at_least(1, steps=steps)
        one_of(SCHEDULES, schedule=schedule)
        positive(deviation=deviation)
        within(0, 1, "()", remaining=remaining)
        self.steps = steps
        self.schedule = schedule
        self.deviation = deviation
        self.remaining = remaining
        rate = rates(schedule, steps)[1:]
        self.total = np.concatenate([[0.0], rate.cumsum() * (-math.log(remaining) / rate.sum())])
        t = np.arange(1, steps + 1)
        towards, back, _ = self.posterior(t, t - 1)
        values = {"rate": np.diff(self.total), "kept": np.exp(-self.total[1:]), "std": self.std_at(t)}
        for name, value in (values | {"towards": towards, "back": back}).items():
            whole = torch.from_numpy(np.concatenate([[1.0], value])).float()
            self.register_buffer(name, whole, persistent=False)

    def extra_repr(self) -> str:
        return f"steps={self.steps}, schedule={self.schedule}, deviation={self.deviation}, remaining={self.remaining}"

    def std_at(self, t: Any) -> Any:
        """Compute s_t in double precision, for one time or for an array of times."""
        return self.deviation * np.sqrt(-np.expm1(-2 * self.total[t]))

    def posterior(self, t: Any, s: Any) -> tuple[Any, Any, Any]:
        """Compute the normal distribution of x_s given x_t and x_0, in double precision.

        Args:
            t: one time or an array of times, which must be at least 1.
            s: one time or an array of times, each earlier than t.

        Returns:
            Two weights in the mean, for x_t - mu and for x_0 - mu, and the standard deviation.
        """
        before, after = self.total[t], self.total[s]
        whole, left, step = (-np.expm1(-2 * each) for each in (before, after, before - after))
        towards, back = np.exp(after - before) * left / whole, np.exp(-after) * step / whole
        return towards, back, self.deviation * np.sqrt(step * left / whole)

    def add_noise(self, clean: Tensor, degraded: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Compute x_t from images and noise, all `[B, C, H, W]`, at the times t, `[B]`, int64."""
        return degraded + along(self.kept[t], clean) * (clean - degraded) + along(self.std[t], clean) * noise

    def step_back(self, x: Tensor, degraded: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Estimate the mean of x_{t-1} by an Euler step from x_t and its noise, at times t of at least 1, `[B]`."""
        rate = along(self.rate[t], x)
        return x - rate * (degraded - x) - 2 * self.deviation**2 * rate * noise / along(self.std[t], x)

    def best_step_back(self, x: Tensor, clean: Tensor, degraded: Tensor, t: Tensor) -> Tensor:
        """Compute the most likely x_{t-1} given x_t and x_0; all times t, `[B]`, must be at least 1."""
        return degraded + along(self.towards[t], x) * (x - degraded) + along(self.back[t], x) * (clean - degraded)

    def times(self, count: int) -> list[int]:
        """List `count + 1` evenly spaced times from T to 0, for `count` steps.

        `count` must be at most T.
        """
        return [round(self.steps * (count - step) / count) for step in range(count + 1)]

    def sample(
        self,
        noise_in: Callable[[Tensor, int], Tensor],
        degraded: Tensor,
        draw: Callable[[Tensor], Tensor],
        sampler: Sampler = "euler",
        steps: int | None = None,
    ) -> Tensor:
        """Sample restored images with the reverse process.

        Sampling starts from the degraded images plus noise.

        Args:
            noise_in: function that estimates the noise in x_t, `[B, C, H, W]`, and is called with x_t and t.
            degraded: mu, the degraded images, `[B, C, H, W]`.
            draw: function that samples standard normal noise with the shape of its argument.
            sampler: sampling method: `euler`, `ode` or `posterior`. Even in the last step, `euler` adds noise.
            steps: number of steps, at most T; None means T steps.
        """
        x = degraded + self.deviation * draw(degraded)
        for t, s in pairwise(self.times(steps or self.steps)):
            noise = noise_in(x, t)
            if sampler == "posterior":
                towards, back, spread = (float(each) for each in self.posterior(t, s))
                clean = degraded + (x - degraded - float(self.std_at(t)) * noise) * math.exp(self.total[t])
                x = degraded + towards * (x - degraded) + back * (clean - degraded)
            else:
                rate = float(self.total[t] - self.total[s])
                score = (2.0 if sampler == "euler" else 1.0) * self.deviation**2 * rate / float(self.std_at(t))
                x = x - rate * (degraded - x) - score * noise
                spread = self.deviation * math.sqrt(2 * rate) if sampler == "euler" else 0.0
            if spread:
                x = x + spread * draw(x)
        return x
