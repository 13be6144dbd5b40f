"""Noise levels at which a score network is trained, and conversion of the network's output to the score.

Continuous models are trained at all times t. For VE, the network of a continuous model receives sigma(t) and predicts
the score. For the other processes, the network receives 999 t and predicts the noise, and the score is -noise / std.
Discrete models are trained at N noise levels. For VE, the network of a discrete model receives the index of the level,
round((1 - t)(N - 1)), where index 0 is the largest noise level, and the score is the network's output divided by sigma.
For VP, the network receives t (N - 1) and predicts the noise, and x_t has the mean and variance of DDPM's noising
process instead of those of the VP process.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least
from lightning_modules.sde.discrete import run_diffusion_model
from lightning_modules.sde.processes import VE, VP, Process, along

SMALLEST_TIME = 1e-5


class TrainedLevels(nn.Module):
    """Provide training times, the distribution of x_t given x_0, and the score for an output of the network.

    Args:
        process: diffusion process.
        num_levels: N, number of noise levels of a discrete model; None for a continuous model.
    """

    abar: Tensor

    def __init__(self, process: Process, num_levels: int | None = None) -> None:
        super().__init__()
        at_least(2, num_levels=num_levels)
        if num_levels is not None and not isinstance(process, VE | VP):
            raise ValueError(f"num_levels: discrete models need a VE or VP process, got {type(process).__name__}")
        self.process = process
        self.num_levels = num_levels
        self.told_sigma = isinstance(process, VE)
        self.has_table = num_levels is not None and not self.told_sigma
        if isinstance(process, VP) and num_levels is not None:
            grid = torch.linspace(0, 1, num_levels, dtype=torch.float64, device="cpu")
            beta = process.beta(grid) / num_levels
            self.register_buffer("abar", (1 - beta).cumprod(dim=0).float(), persistent=False)

    def times(self, uniform: Tensor) -> Tensor:
        """Convert uniformly distributed numbers in [0, 1), `[B]`, to training times."""
        if self.num_levels is None:
            return SMALLEST_TIME + (1 - SMALLEST_TIME) * uniform
        return (uniform * self.num_levels).floor() / (self.num_levels - 1)

    def kernel(self, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the mean of x_t given the data x_0, and its standard deviation, `[B]`."""
        if not self.has_table:
            return self.process.kernel(data, t)
        abar = self._abar(t)
        return along(abar.sqrt(), data) * data, (1 - abar).sqrt()

    def _abar(self, t: Tensor) -> Tensor:
        return self.abar.to(t.dtype)[(t * (self.abar.shape[0] - 1) + 1e-4).long()]

    def score(self, network: Callable[..., Any], x: Tensor, t: Tensor) -> Tensor:
        """Evaluate a network, and return the score at x_t, `[B, C, H, W]`, and times t, `[B]`.

        The division by the standard deviation is computed in float32 or in a higher precision, because the standard
        deviation may be very small.
        """
        deviation = self.kernel(x, t)[1]
        if self.told_sigma:
            if self.num_levels is None:
                return run_diffusion_model(network, x, deviation)
            output = run_diffusion_model(network, x, ((1 - t) * (self.num_levels - 1)).round())
            return output.to(torch.promote_types(output.dtype, torch.float32)) / along(deviation, x)
        noise = run_diffusion_model(network, x, t * (999 if self.num_levels is None else self.num_levels - 1))
        return -noise.to(torch.promote_types(noise.dtype, torch.float32)) / along(deviation, x)

    def clean_estimate(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Compute E[x_0 | x_t] from the score at x_t."""
        if not self.has_table:
            return self.process.clean_estimate(x, t, score)
        abar = along(self._abar(t), x)
        return (x + (1 - abar) * score) / abar.sqrt()

    def time_of(self, sigma: Tensor) -> Tensor:
        """Compute the times at which the noise has the standard deviations sigma, `[B]`, in units of the data.

        For a discrete VP model, the result is the time of the smallest noise level that is at least sigma.
        """
        if self.has_table:
            level = torch.searchsorted((1 - self.abar).to(sigma) / self.abar.to(sigma), sigma**2)
            return level.to(sigma.dtype) / (self.abar.shape[0] - 1)
        return self.process.time_of(sigma)  # type: ignore[attr-defined]


def score_matching(
    score: Tensor, noise: Tensor, deviation: Tensor, rate: Tensor | None = None, reduce_mean: bool = False
) -> Tensor:
    """Compute the denoising score matching loss of each image; the result is `[B]`.

    Args:
        score: predicted score s(x_t, t), `[B, C, H, W]`.
        noise: z, noise in x_t.
        deviation: std, standard deviation of the noise, `[B]`.
        rate: loss weights g(t)^2, `[B]`, of the likelihood bound; None uses the loss weights std^2.
        reduce_mean: average the squared errors over the values of an image; if false, use half of their sum.
    """
    deviation = along(deviation, score)
    errors = (score * deviation + noise) if rate is None else (score + noise / deviation)
    squares = errors.square().flatten(1)
    reduced = squares.mean(dim=1) if reduce_mean else 0.5 * squares.sum(dim=1)
    return reduced if rate is None else reduced * rate.to(reduced.dtype)
