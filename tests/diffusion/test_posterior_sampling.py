"""Sampling without guidance is DDIM."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from datamodules.corruptions.operators import LinearOperator
from lightning_modules.diffusion.dps import dps_guidance
from lightning_modules.diffusion.pigdm import pigdm_guidance
from lightning_modules.diffusion.posterior_sampling import guided_ddim
from lightning_modules.sde.ddim import ddim
from tests.diffusion.gaussian_images import ABAR, GaussianImages, images

PATH = [900, 600, 250, 30, -1]


class Nothing(LinearOperator):
    """An operator whose measurements are always zero."""

    def forward(self, image: Tensor) -> Tensor:
        return 0 * image

    def apply_filter(self, image: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        return gain(torch.zeros_like(image)) * image

    pseudo_inverse = transpose = forward  # type: ignore[assignment]


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("method", ["dps", "pigdm"])
def test_without_guidance_both_are_ddim(method: str, eta: float) -> None:
    model, x, y = GaussianImages().double(), images(2, 1, 4, 4), images(2, 1, 4, 4, seed=1)

    def guidance(noisy: Tensor, clean: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        if method == "dps":
            return dps_guidance(noisy, clean, scale, y, Nothing(), strength=0.0)
        return pigdm_guidance(noisy, clean, scale, y, Nothing())

    generator = torch.Generator().manual_seed(7)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    found = guided_ddim(model, x, PATH, ABAR, guidance, eta=eta, draw=draw)
    generator.manual_seed(7)
    torch.testing.assert_close(found, ddim(model, x, PATH, ABAR, eta=eta, draw=draw).detach())
    assert not found.requires_grad
