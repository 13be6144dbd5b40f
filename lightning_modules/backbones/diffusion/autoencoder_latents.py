"""Latents of a diffusers autoencoder E: z = s (E(2 x - 1) - m), with E's scaling factor s and shift factor m."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.backbones.diffusion.size_multiple import size_multiple_of


class AutoencoderLatents(nn.Module):
    """Encodes images to latents z and decodes latents, with the autoencoder in the attribute `vae`."""

    vae: Any
    parts: Sequence[str]
    packing: ClassVar[int]

    @classmethod
    def size_multiple_before_loading(cls, pipeline: str, local_files_only: bool = False, **_: Any) -> int | None:
        """Return a divisor of height and width that a pipeline requires, if its configurations say so."""
        return size_multiple_of(pipeline, cls.parts[0], cls.packing, local_files_only)

    @property
    def scaling_factor(self) -> float:
        return self.vae.config.scaling_factor

    @property
    def shift_factor(self) -> float:
        """Shift factor m; 0 for Stable Diffusion and SDXL."""
        return self.vae.config.get("shift_factor") or 0.0

    def encode(self, image: Tensor, draw: Tensor | None = None) -> Tensor:
        """Encode images to z.

        Args:
            image: `[B, 3, H, W]` in [0, 1], differentiable.
            draw: standard normal noise shaped like z, to sample from the encoder's distribution; None returns the
                distribution's mean.
        """
        return self.latent(self.moments(image), draw)

    def moments(self, image: Tensor) -> Tensor:
        """Compute the mean and standard deviation of E's output, `[B, 2, c, h, w]`, for images in [0, 1]."""
        posterior = self.vae.encode((2 * image - 1).to(self.vae.dtype)).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1).to(image.dtype)

    def latent(self, moments: Tensor, draw: Tensor | None = None) -> Tensor:
        """Compute latents z from the output of `moments`; `draw` is as in `encode`."""
        mean, deviation = moments.unbind(dim=1)
        return self.scaling_factor * ((mean if draw is None else mean + deviation * draw) - self.shift_factor)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode z to images, `[B, 3, H, W]`; values may slightly exceed [0, 1]."""
        scaled = latent / self.scaling_factor + self.shift_factor
        return ((self.vae.decode(scaled.to(self.vae.dtype)).sample + 1) / 2).to(latent.dtype)
