"""PiGDM finds an image from a measurement by sampling, towards what the pseudo-inverse says is missing.

It takes steps of DDIM (see `lightning_modules.sde.ddim`) from x_t = sqrt(abar_t) H^+ y + sqrt(1 - abar_t) e, and adds

    + sqrt(abar_s abar_t) (d x^ / d x_t)^T (H^+ y - H^+ H x^)

to a step from t to s, through the network, with its estimate x^ of the image at x_t. For masks, the known pixels of x^
are those of y, and the others alone are guided.

It is in the form in which RED-diff is compared with it, for measurements without noise; what the authors' code adds for
images of a high dynamic range is left out.

Source: Song, Vahdat, Mardani and Kautz, Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023.
"""

from functools import partial

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.corruptions.operators.inpainting import Inpainting
from datamodules.corruptions.operators.interface import Operator
from lightning_modules.diffusion.posterior_sampling import Guidance, PosteriorSampling
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol
from lightning_modules.optim.optimizers import adam, constant


def pigdm_guidance(
    noisy: Tensor, clean: Tensor, scale: float, measured: Tensor, operator: Operator
) -> tuple[Tensor, Tensor]:
    """Move along what is missing in the estimate, carried back through the network; `scale` is sqrt(abar_s abar_t)."""
    estimate = clean.detach()
    missing = operator.pseudo_inverse(measured) - operator.pseudo_inverse(operator.forward(estimate))
    (gradient,) = torch.autograd.grad(clean, noisy, missing.detach())
    if isinstance(operator, Inpainting):
        hidden = 1 - operator.mask.to(estimate)
        estimate, gradient = estimate * hidden + operator.forward(measured), gradient * hidden
    return estimate, scale * gradient


class PiGDM(PosteriorSampling, MethodModule):
    """Find images from measurements by pseudo-inverse guidance; `test` and `predict` are what it does.

    Args:
        network: called with images in [-1, 1] and times `[B]`, it gives `[B, C or 2 C, H, W]` or, as a U-Net of
            diffusers, an object that has it as `sample`. `fit` trains it, where it has trainable parameters.
        scheduler: scheduler that the network was trained with, of which levels and prediction type are used.
        steps: steps from noise to an image.
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
        steps: int = 100,
        eta: float = 1.0,
        protocol: EvaluationProtocol = "clipped",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.take(network, scheduler, steps, protocol, optimizer, lr_scheduler)
        within(0, 1, eta=eta)
        self.eta = eta

    def guidance(self, measured: Tensor, operator: Operator) -> Guidance:
        return partial(pigdm_guidance, measured=measured, operator=operator)
