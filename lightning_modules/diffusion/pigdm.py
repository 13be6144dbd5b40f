"""PiGDM reconstructs an image from a measurement by diffusion sampling, guided by the residual's pseudo-inverse.

Let y be the measurement, H the measurement operator and H^+ its pseudo-inverse. PiGDM takes DDIM steps (see
`lightning_modules.sde.ddim`), and starts from x_t = sqrt(abar_t) H^+ y + sqrt(1 - abar_t) e. To the result of a step
from t to s, PiGDM adds

    + sqrt(abar_s abar_t) (d x^ / d x_t)^T (H^+ y - H^+ H x^)

Here x^ is the network's estimate of the image from x_t. The vector-Jacobian product is computed by backpropagation
through the network. If the operator is a mask, the known pixels of x^ are replaced with the pixels of y, and guidance
is applied only to unknown pixels.

This is the variant for noise-free measurements, which RED-diff uses as a baseline. The authors' extension to images
with high dynamic range is not implemented.

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
    """Return x^ and the term that PiGDM adds to a step; `scale` is sqrt(abar_s abar_t)."""
    estimate = clean.detach()
    missing = operator.pseudo_inverse(measured) - operator.pseudo_inverse(operator.forward(estimate))
    (gradient,) = torch.autograd.grad(clean, noisy, missing.detach())
    if isinstance(operator, Inpainting):
        hidden = 1 - operator.mask.to(estimate)
        estimate, gradient = estimate * hidden + operator.forward(measured), gradient * hidden
    return estimate, scale * gradient


class PiGDM(PosteriorSampling, MethodModule):
    """Reconstruct images from measurements in `test` and `predict`, by pseudo-inverse guidance (PiGDM).

    Args:
        network: diffusion model, called with noisy images (clean images are in [-1, 1]) and timesteps `[B]`. Its output
            is a tensor `[B, C or 2 C, H, W]`, or a diffusers output whose attribute `sample` is such a tensor. `fit`
            trains the network's trainable parameters.
        scheduler: scheduler with which the network was trained; only its noise levels and prediction type are used.
        steps: number of sampling steps.
        eta: factor of the noise that is added in each step, from 0 (as in DDIM) to 1 (as in DDPM).
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips them to [0, 1] and rounds them
            to 256 levels, `clipped` only clips them, and `unclipped` does not change them.
        optimizer: optimizer of the network's trainable parameters in `fit`.
        lr_scheduler: learning-rate schedule, stepped after every epoch of `fit`.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from datamodules.corruptions.operators import AverageDownsampling
        >>> from lightning_modules.networks.time_conditioned_mlp import TimeConditionedImageMLP
        >>> model = PiGDM(TimeConditionedImageMLP(64), DDIMScheduler(), steps=5)
        >>> model.restore(torch.full((2, 1, 4, 4), 0.5), AverageDownsampling(2)).shape
        torch.Size([2, 1, 8, 8])
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
        super().__init__(network, scheduler, steps, protocol, optimizer, lr_scheduler)
        within(0, 1, eta=eta)
        self.eta = eta

    def guidance(self, measured: Tensor, operator: Operator) -> Guidance:
        return partial(pigdm_guidance, measured=measured, operator=operator)
