"""Levels of noise that a network is trained at, and the score that its output stands for.

Continuous models are trained at any t. VE networks are told sigma(t) and give the score; others are told 999 t and give
the noise, whose score is -noise / std. Discrete ones are trained at N levels. VE networks are told the number of their
level from the largest noise down, round((1 - t)(N - 1)), and their output is divided by sigma here; others are told
t (N - 1), with abar of DDPM in place of the kernel of VP.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least
from lightning_modules.sde.discrete import predicted
from lightning_modules.sde.processes import VE, VP, Process, along

SMALLEST_TIME = 1e-5


class TrainedLevels(nn.Module):
    """Draws levels, noises data, and reads the score from a network.

    Args:
        process: the diffusion.
        num_levels: N of a discrete model; None for a continuous one.

    Raises:
        ValueError: if there is no discrete model of the process.
    """

    abar: Tensor

    def __init__(self, process: Process, num_levels: int | None = None) -> None:
        super().__init__()
        at_least(2, num_levels=num_levels)
        if num_levels is not None and not isinstance(process, VE | VP):
            raise ValueError(f"num_levels: discrete models are of VE and VP, not of {type(process).__name__}")
        self.process = process
        self.num_levels = num_levels
        self.told_sigma = isinstance(process, VE)
        self.has_table = num_levels is not None and not self.told_sigma
        if isinstance(process, VP) and num_levels is not None:
            grid = torch.linspace(0, 1, num_levels, dtype=torch.float64, device="cpu")
            beta = process.beta(grid) / num_levels
            self.register_buffer("abar", (1 - beta).cumprod(dim=0).float(), persistent=False)

    def times(self, uniform: Tensor) -> Tensor:
        """Turn numbers in [0, 1), `[B]`, to times that are trained."""
        if self.num_levels is None:
            return SMALLEST_TIME + (1 - SMALLEST_TIME) * uniform
        return (uniform * self.num_levels).floor() / (self.num_levels - 1)

    def kernel(self, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation `[B]` of x_t given data."""
        if not self.has_table:
            return self.process.kernel(data, t)
        abar = self._abar(t)
        return along(abar.sqrt(), data) * data, (1 - abar).sqrt()

    def _abar(self, t: Tensor) -> Tensor:
        return self.abar.to(t.dtype)[(t * (self.abar.shape[0] - 1) + 1e-4).long()]

    def score(self, network: Callable[..., Any], x: Tensor, t: Tensor) -> Tensor:
        """Evaluate a network as the score of x_t, for x `[B, C, H, W]` and t `[B]`.

        Noise is divided by its deviation in single precision or better, as that may be tiny.
        """
        deviation = self.kernel(x, t)[1]
        if self.told_sigma:
            if self.num_levels is None:
                return predicted(network, x, deviation)
            output = predicted(network, x, ((1 - t) * (self.num_levels - 1)).round())
            return output.to(torch.promote_types(output.dtype, torch.float32)) / along(deviation, x)
        noise = predicted(network, x, t * (999 if self.num_levels is None else self.num_levels - 1))
        return -noise.to(torch.promote_types(noise.dtype, torch.float32)) / along(deviation, x)

    def clean_estimate(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Compute E[x_0 | x_t]."""
        if not self.has_table:
            return self.process.clean_estimate(x, t, score)
        abar = along(self._abar(t), x)
        return (x + (1 - abar) * score) / abar.sqrt()

    def time_of(self, sigma: Tensor) -> Tensor:
        """Find the times, `[B]`, at which data have noise sigma, or the first level with that much, in their units."""
        if self.has_table:
            level = torch.searchsorted((1 - self.abar).to(sigma) / self.abar.to(sigma), sigma**2)
            return level.to(sigma.dtype) / (self.abar.shape[0] - 1)
        return self.process.time_of(sigma)  # type: ignore[attr-defined]


def score_matching(
    score: Tensor, noise: Tensor, deviation: Tensor, rate: Tensor | None = None, reduce_mean: bool = False
) -> Tensor:
    """Compute each image's loss, `[B]`.

    Args:
        score: s(x_t, t), `[B, C, H, W]`.
        noise: z.
        deviation: std, `[B]`.
        rate: g(t)^2, `[B]`, weights for the likelihood; None weights by std^2.
        reduce_mean: whether R is the mean over an image's values; otherwise half of their sum.
    """
    deviation = along(deviation, score)
    errors = (score * deviation + noise) if rate is None else (score + noise / deviation)
    squares = errors.square().flatten(1)
    reduced = squares.mean(dim=1) if reduce_mean else 0.5 * squares.sum(dim=1)
    return reduced if rate is None else reduced * rate.to(reduced.dtype)
