"""DPS finds an image from a measurement by sampling, against the gradient of the distance from the measurement.

It takes steps of DDIM (see `lightning_modules.sde.ddim`) from x_t = sqrt(abar_t) H^+ y + sqrt(1 - abar_t) e, and adds

    - zeta (d |y - H(x^)|^2 / d x_t) / |y - H(x^)|

to each, through the network, with its estimate x^ of the image at x_t. It is in the form in which RED-diff is compared
with it: it begins at the pseudo-inverse, and its steps may be fewer than the times of the model.

Source: Chung, Kim, Mccann, Klasky and Ye, Diffusion Posterior Sampling for General Noisy Inverse Problems, ICLR 2023,
arXiv 2209.14687, algorithm 1.
"""

from functools import partial

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, within
from datamodules.corruptions.operators.interface import Operator
from lightning_modules.diffusion.posterior_sampling import Guidance, PosteriorSampling
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol
from lightning_modules.optim.optimizers import adam, constant


def dps_guidance(
    noisy: Tensor, clean: Tensor, scale: float, measured: Tensor, operator: Operator, strength: float
) -> tuple[Tensor, Tensor]:
    """Move against the gradient of the distance from the measurement; `strength` is zeta."""
    squares = (measured - operator.forward(clean)).flatten(1).square().sum(dim=1)
    (gradient,) = torch.autograd.grad(squares.sum(), noisy)
    norm = squares.detach().sqrt().clamp(min=torch.finfo(squares.dtype).tiny).view(-1, 1, 1, 1)
    return clean.detach(), -strength * gradient / norm


class DPS(PosteriorSampling, MethodModule):
    """Find images from measurements by diffusion posterior sampling; `test` and `predict` are what it does.

    Args:
        network: called with images in [-1, 1] and times `[B]`, it gives `[B, C or 2 C, H, W]` or, as a U-Net of
            diffusers, an object that has it as `sample`. `fit` trains it, where it has trainable parameters.
        scheduler: scheduler that the network was trained with, of which levels and prediction type are used.
        steps: steps from noise to an image.
        strength: zeta, of the guidance.
        eta: amount of fresh noise in a step, from 0, DDIM, to 1, DDPM.
        protocol: how tests measure estimates: `rounded` to 256 levels, `clipped` alone, or `unclipped`.
        optimizer: built on the network's trainable parameters, for `fit`.
        lr_scheduler: stepped every epoch of `fit`.

    Raises:
        ValueError: if an argument is out of range, or the scheduler has fewer times than `steps`.
    """

    def __init__(
        self,
        network: nn.Module,
        scheduler: DDPMScheduler | DDIMScheduler,
        steps: int = 1000,
        strength: float = 0.3,
        eta: float = 1.0,
        protocol: EvaluationProtocol = "clipped",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.take(network, scheduler, steps, protocol, optimizer, lr_scheduler)
        at_least(0, strength=strength)
        within(0, 1, eta=eta)
        self.strength = strength
        self.eta = eta

    def guidance(self, measured: Tensor, operator: Operator) -> Guidance:
        return partial(dps_guidance, measured=measured, operator=operator, strength=self.strength)
