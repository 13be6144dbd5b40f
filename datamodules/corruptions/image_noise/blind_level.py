"""Blind estimation of the noise level.

Images are denoised at several levels. The level whose denoised image has the best no-reference score is chosen.

Source: Noise2Score, Kim and Ye, NeurIPS 2021, arXiv 2106.07009, blind denoising; the scores and the grids of levels are
those of the authors' code. In the authors' code, the best score must also reach a fixed bound. Here, the level with the
best score is always chosen.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from datamodules.corruptions.image_noise.gaussian import Gaussian
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.corruptions.image_noise.signal_dependent import Gamma, Poisson

Noise = TypeVar("Noise", bound=ImageNoise)


def total_variation(image: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Compute the total variation `[B]`: the mean absolute vertical difference plus the mean horizontal one."""
    down, across = image.diff(dim=2), image.diff(dim=3)
    return sum((d**2 + epsilon).sqrt().flatten(1).mean(dim=1) for d in (down, across))  # type: ignore[return-value]


def candidates(noise: ImageNoise) -> list[ImageNoise]:
    """List noise models at the candidate levels, which divide the paper's range of levels into equal steps.

    Args:
        noise: noise model that determines the kind of noise; its level is not used.

    Raises:
        ValueError: if the paper defines no range of levels for this kind of noise.
    """
    kind = type(noise)
    if kind not in GRIDS:
        raise ValueError(f"no candidate levels for {kind.__name__}; expected Gaussian, Poisson or Gamma")
    steps, first, last = GRIDS[kind]
    return [kind(first * (1 - i / steps) + last * i / steps) for i in range(1, steps + 1)]  # type: ignore[call-arg]


GRIDS: dict[type[ImageNoise], tuple[int, float, float]] = {
    Gaussian: (50, 5, 55),
    Poisson: (100, 0.1, 0.005),
    Gamma: (80, 40, 120),
}


def looks(noise: ImageNoise, noisy: Tensor, denoised: Tensor) -> Tensor:
    """Score denoised images without ground truth; the result is `[B]`.

    The score is the roughness of the denoised image x, plus its misfit to the noisy image y. Lower is better.

    Gaussian: TV(x). Poisson: 0.1 TV(x clipped to [0, max x]) + mean over x > 0 of (x - y log x). Gamma: TV(x) + mean
    over x > 0 of (log x + y / x + (y / x)^2).
    """
    if isinstance(noise, Gaussian):
        return total_variation(denoised)
    lit = denoised > 0
    above = torch.where(lit, denoised, 1)
    if isinstance(noise, Poisson):
        return 0.1 * total_variation(denoised.clamp(min=0)) + _mean_where(lit, denoised - noisy * above.log())
    ratio = noisy / above
    return total_variation(denoised) + _mean_where(lit, above.log() + ratio + ratio**2)


def _mean_where(where: Tensor, values: Tensor) -> Tensor:
    chosen = torch.where(where, values, 0).flatten(1)
    return chosen.sum(dim=1) / where.flatten(1).sum(dim=1).clamp(min=1)


def best_level(noises: Sequence[Noise], noisy: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Denoise images at each candidate level. For each image, choose the level with the best score.

    The function `looks` computes the scores.

    Args:
        noises: one kind of noise at each candidate level. If levels have equal scores, the first of them is chosen.
        noisy: noisy images, `[B, C, H, W]`.
        score: score function (gradient of the log-density) of the distribution of noisy images. Its argument is the
            result of `score_input`. If this result is the same for all levels, the score function is evaluated only
            once.

    Returns:
        The indices of the chosen levels, `[B]`, and the denoised images.
    """
    computed, known = None, None
    best = torch.full(noisy.shape[:1], float("inf"), dtype=noisy.dtype, device=noisy.device)
    chosen, denoised = torch.zeros_like(best, dtype=torch.int64), noisy.clone()
    for number, noise in enumerate(noises):
        given = noise.score_input(noisy)
        if known is None or given is not computed:
            computed, known = given, score(given)
        tried = noise.posterior_mean(noisy, known)
        measure = looks(noise, noisy, tried)
        better = measure < best
        best = torch.where(better, measure, best)
        chosen = torch.where(better, number, chosen)
        denoised = torch.where(better[:, None, None, None], tried, denoised)
    return chosen, denoised
