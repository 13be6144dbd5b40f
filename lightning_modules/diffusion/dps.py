"""DPS reconstructs an image from a measurement by diffusion sampling, guided by the gradient of the residual norm.

Let y be the measurement, H the measurement operator and H^+ its pseudo-inverse. DPS takes DDIM steps (see
`lightning_modules.sde.ddim`), and starts from x_t = sqrt(abar_t) H^+ y + sqrt(1 - abar_t) e. To the result of each
step, DPS adds

    - zeta (d |y - H(x^)|^2 / d x_t) / |y - H(x^)|

Here x^ is the network's estimate of the image from x_t, and the gradient is computed by backpropagation through the
network. The start from H^+ y, the meaning of zeta, and the option to take fewer steps than the model has timesteps,
follow the implementation of DPS in the code of RED-diff.

Departures from the authors' code: it subtracts `scale` times the gradient of |y - H(x^)|, which is half of the gradient
of the square divided by the norm. A given zeta therefore equals a `scale` of 2 zeta. It also starts from noise, and
takes the norm over the whole batch, which consists of one image.

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
    """Return x^ and the term that DPS adds to a step; `strength` is zeta."""
    squares = (measured - operator.forward(clean)).flatten(1).square().sum(dim=1)
    (gradient,) = torch.autograd.grad(squares.sum(), noisy)
    norm = squares.detach().sqrt().clamp(min=torch.finfo(squares.dtype).tiny).view(-1, 1, 1, 1)
    return clean.detach(), -strength * gradient / norm


class DPS(PosteriorSampling, MethodModule):
    """Reconstruct images from measurements in `test` and `predict`, by diffusion posterior sampling (DPS).

    Args:
        network: diffusion model, called with noisy images (clean images are in [-1, 1]) and timesteps `[B]`. Its output
            is a tensor `[B, C or 2 C, H, W]`, or a diffusers output whose attribute `sample` is such a tensor. `fit`
            trains the network's trainable parameters.
        scheduler: scheduler with which the network was trained; only its noise levels and prediction type are used.
        steps: number of sampling steps.
        strength: zeta, strength of the guidance; half of the `scale` of the authors' code.
        eta: factor of the noise that each step adds, from 0 (as in DDIM) to 1 (as in DDPM).
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips them to [0, 1] and rounds them
            to 256 levels, `clipped` only clips them, and `unclipped` does not change them.
        optimizer: optimizer of the network's trainable parameters in `fit`.
        lr_scheduler: learning-rate schedule, stepped after every epoch of `fit`.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from datamodules.corruptions.operators import AverageDownsampling
        >>> from lightning_modules.networks.time_conditioned_mlp import TimeConditionedImageMLP
        >>> model = DPS(TimeConditionedImageMLP(64), DDIMScheduler(), steps=5)
        >>> model.restore(torch.full((2, 1, 4, 4), 0.5), AverageDownsampling(2)).shape
        torch.Size([2, 1, 8, 8])
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
        super().__init__(network, scheduler, steps, protocol, optimizer, lr_scheduler)
        at_least(0, strength=strength)
        within(0, 1, eta=eta)
        self.strength = strength
        self.eta = eta

    def guidance(self, measured: Tensor, operator: Operator) -> Guidance:
        return partial(dps_guidance, measured=measured, operator=operator, strength=self.strength)
