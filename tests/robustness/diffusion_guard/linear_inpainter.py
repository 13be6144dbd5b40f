"""An inpainter with closed-form gradients, and images for it."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from lightning_modules.robustness.diffusion_guard.attack import Ascent, Defence
from lightning_modules.robustness.diffusion_guard.inpainting import Inpainter
from lightning_modules.robustness.diffusion_guard.module import DiffusionGuard

SIZE = 8
OF_DEFENCE = ("objective", "augmentation", "timestep")
OF_ATTACK = ("epsilon", "step_size", "iterations", "gradient_repeats")


def guarding(inpainter: Inpainter, **options: Any) -> DiffusionGuard:
    """Create the module from the settings of its defence and its attack, and from its own arguments."""
    defence, attack = ({key: options.pop(key) for key in keys if key in options} for keys in (OF_DEFENCE, OF_ATTACK))
    return DiffusionGuard(inpainter, Defence(**defence), Ascent(**attack), **options)


class LinearInpainter(Inpainter):
    """Predicts z + (1 + t / T) A y; the gradient of its norm has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = DDIMScheduler(steps_offset=1)
        generator = torch.Generator().manual_seed(3)
        self.matrix = nn.Parameter(torch.randn(SIZE**2, SIZE**2, generator=generator, dtype=torch.float64))

    def noise_shape(self, image: Tensor) -> torch.Size:
        return image.shape

    def encode(self, image: Tensor, draw: Tensor) -> Tensor:
        return 2 * image - 1

    def predicted_noise(self, noisy: Tensor, repaint: Tensor, blanked: Tensor, timestep: Tensor) -> Tensor:
        factor = (1 + timestep.double() / 1000).view(-1, 1, 1, 1)
        return noisy + factor * (blanked.flatten(1) @ self.matrix.T).view_as(noisy)

    def edit(self, image: Tensor, keep: Tensor, prompts: Sequence[str], noise: Tensor) -> Tensor:
        return image * keep + (1 - keep) * image.mean(dim=(1, 2, 3), keepdim=True)


def images(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
    regions = torch.zeros(count, 2, SIZE, SIZE, dtype=torch.bool)
    regions[:, 0, 1:5, 1:5] = True
    regions[:, 1, 4:7, 3:8] = True
    return image, regions, torch.arange(count) + 10
