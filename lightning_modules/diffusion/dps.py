"""DPS reconstructs an image from a measurement by diffusion sampling, guided by the gradient of the residual norm.

DPS takes DDIM steps (see `lightning_modules.sde.ddim`) from x_t = sqrt(abar_t) H^+ y + sqrt(1 - abar_t) e. To each
step, DPS adds

    - zeta (d |y - H(x^)|^2 / d x_t) / |y - H(x^)|

Here x^ is the network's estimate of the image at x_t, and the gradient is computed by backpropagation through the
network. As in RED-diff's implementation of this baseline, sampling starts from the pseudo-inverse H^+ y, and may take
fewer steps than the model has timesteps.

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
    """Return x^ and the step against the gradient of the residual norm; `strength` is zeta."""
    squares = (measured - operator.forward(clean)).flatten(1).square().sum(dim=1)
    (gradient,) = torch.autograd.grad(squares.sum(), noisy)
    norm = squares.detach().sqrt().clamp(min=torch.finfo(squares.dtype).tiny).view(-1, 1, 1, 1)
    return clean.detach(), -strength * gradient / norm


class DPS(PosteriorSampling, MethodModule):
    """Reconstruct images from measurements by diffusion posterior sampling, in `test` and `predict`.

    Args:
        network: diffusion model, called with images in [-1, 1] and timesteps `[B]`. The output is a tensor `[B, C or 2
            C, H, W]`, or a diffusers output whose `sample` is such a tensor. `fit` trains the network's trainable
            parameters.
        scheduler: scheduler that the network was trained with; only its noise levels and prediction type are used.
        steps: sampling steps.
        strength: zeta, guidance strength.
        eta: amount of new noise in each step, from 0 (DDIM) to 1 (DDPM).
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters in `fit`.
        lr_scheduler: learning-rate schedule, stepped every epoch of `fit`.

    Raises:
        ValueError: if an argument is out of range, or the scheduler has fewer than `steps` timesteps.
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
