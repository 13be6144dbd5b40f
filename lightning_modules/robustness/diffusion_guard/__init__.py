"""DiffusionGuard: photographs that a diffusion model's editor fails to repaint around what it keeps."""

from lightning_modules.robustness.diffusion_guard.inpainting import PixelInpainter, StableDiffusionInpainter
from lightning_modules.robustness.diffusion_guard.module import DiffusionGuard

__all__ = ["DiffusionGuard", "PixelInpainter", "StableDiffusionInpainter"]
