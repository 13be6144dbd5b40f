"""The ascent that protects images, and the objectives that it raises."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_modules.robustness.attacks.ascent import project
from lightning_modules.robustness.diffusion_guard.inpainting import Inpainter

ProtectionObjective = Literal["noise_norm", "encoder", "denoising_error", "random"]


def noise_norm(predicted: Tensor) -> Tensor:
    """Compute || e ||_2 of each image, `[B]`."""
    return torch.linalg.vector_norm(predicted.flatten(1), dim=1)


def first_step(inpainter: Inpainter, image: Tensor, keep: Tensor, noise: Tensor, draw: Tensor, timestep: int) -> Tensor:
    """Predict the noise at a timestep from pure noise, as the editor's first step does.

    Args:
        inpainter: the editor's model.
        image: `[B, C, H, W]` in [0, 1], differentiable.
        keep: `[B, 1, H, W]`, 1 where the image is kept.
        noise: z, standard normal, before the scheduler's scale.
        draw: standard normal, of the shape of z; for a latent that is random itself.
        timestep: t.
    """
    time = torch.full((len(image),), timestep, device=image.device)
    sigma = float(inpainter.scheduler.init_noise_sigma)
    return inpainter.noise_given(image, keep, sigma * noise, draw, time)


def distance_to_grey(inpainter: Inpainter, image: Tensor, keep: Tensor) -> Tensor:
    """Square the distance of the blanked images' encodings to those of grey images, summed over the batch."""
    zero = torch.zeros(inpainter.noise_shape(image), dtype=image.dtype, device=image.device)
    target = inpainter.encode(torch.full_like(image, 0.5), zero).detach()
    return (inpainter.encode(inpainter.blanked(image, keep), zero) - target).square().sum()


def protected(
    image: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    draw_keep: Callable[[], Tensor],
    epsilon: float,
    step_size: float,
    iterations: int,
    gradient_repeats: int = 1,
) -> Tensor:
    """Ascend by projected gradients inside regions that are drawn anew in each iteration.

    Args:
        image: x, `[B, C, H, W]` in [0, 1].
        objective: maps x + d and K, `[B, 1, H, W]`, to the number that is raised; random at each call.
        draw_keep: draws K.
        epsilon: greatest change of a pixel.
        step_size: a.
        iterations: number of steps.
        gradient_repeats: gradients whose mean is taken before the sign.

    Returns:
        x + d, `[B, C, H, W]` in [0, 1]; pixels that no K held are those of x.
    """
    adversarial = image.clone()
    for _ in range(iterations):
        keep = draw_keep()
        leaf = adversarial.clone().requires_grad_()
        total = torch.stack([objective(leaf, keep) for _ in range(gradient_repeats)]).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        adversarial = project(adversarial + step_size * (gradient * keep).sign(), image, "linf", epsilon)
    return adversarial
