"""A diffusion model with the exact prediction for Gaussian images, and schedulers for tests."""

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from lightning_modules.sde.discrete import scheduler_levels

V0 = 0.3
SCHEDULER: Any = DDIMScheduler(beta_schedule="linear")
ABAR = scheduler_levels(SCHEDULER)


class GaussianImages(nn.Module):
    """Predicts the noise in images of independent N(0, v0) pixels: e = sqrt(1 - abar) x_t / (abar v0 + 1 - abar)."""

    def __init__(self, v0: float = V0) -> None:
        super().__init__()
        self.v0 = v0
        self.factor = nn.Parameter(torch.ones(()))
        self.with_gradients: list[bool] = []

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        self.with_gradients.append(torch.is_grad_enabled())
        abar = torch.from_numpy(ABAR).to(noisy)[t].view(-1, 1, 1, 1)
        return self.factor * (1 - abar).sqrt() * noisy / (abar * self.v0 + 1 - abar)


def shrinkage(t: int, v0: float = V0) -> float:
    """Return the factor a of the estimate of the image, E[x | x_t] = a x_t."""
    return float(ABAR[t] ** 0.5 * v0 / (ABAR[t] * v0 + 1 - ABAR[t]))


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(guidance: Any, t: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Apply a guidance to x_t, given the exact estimate a x_t of Gaussian images; sqrt(abar_s abar_t) = 1 / 2."""
    noisy = x.clone().requires_grad_(True)
    return guidance(noisy, shrinkage(t) * noisy, 0.5)
