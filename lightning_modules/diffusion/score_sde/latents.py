"""Encode images to latents, and decode latents to images, with the probability-flow ODE of a score model."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.diffusion.score_sde.trained_levels import SMALLEST_TIME
from lightning_modules.sde.flow import solve_flow


class Latents:
    """Mixin for LightningModules that encodes images to latents, and decodes latents to images.

    The mapping between images and latents is one-to-one. The latents of generated images have the distribution of the
    prior, which is N(0, 1) for VP and sub-VP, and N(0, sigma_max^2) for VE. Encoding and decoding use the averaged
    weights.
    """

    def encode(self: Any, image: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Encode images to latents x_1, which have the same shape.

        Args:
            image: images in [0, 1], `[B, C, H, W]`.
            tolerance: absolute and relative tolerance of the ODE solver.
        """
        return self._move(self.data_of(image.to(self.dtype)), SMALLEST_TIME, 1.0, tolerance)

    def decode(self: Any, latent: Tensor, tolerance: float = 1e-5) -> Tensor:
        """Decode latents x_1, `[B, C, H, W]`, to images in [0, 1]; see `encode` for `tolerance`."""
        return self.image_of(self._move(latent.to(self.dtype), 1.0, SMALLEST_TIME, tolerance))

    @torch.no_grad()
    def _move(self: Any, x: Tensor, start: float, end: float, tolerance: float) -> Tensor:
        with self._average():
            return solve_flow(self.score, x, self.process, start, end, tolerance).x
