"""RED-diff finds an image from a measurement by optimisation, with a diffusion model's denoiser as the regulariser.

The posterior of an image given y = H(x) + noise is approximated by a Gaussian of mean mu and of a deviation sigma that
is small or nought. The divergence from it has a term for each time t of a diffusion model, and its gradient needs no
derivative of the network. Times are visited once each, from the noisiest to the cleanest, with a step of Adam on

    L(mu) = |y - H(x)|^2 / (2 dim y) + lambda f(r_t) <sg(e_theta(x_t, t) - e), x> / dim x,
    x = mu + sigma e_0,   x_t = sqrt(abar_t) x + sqrt(1 - abar_t) e,   e_0, e ~ N(0, I),

where r_t = sqrt(1 - abar_t) / sqrt(abar_t) is the noise-to-signal ratio, f a weighting, by default r itself, and sg
stops gradients. It begins at the pseudo-inverse, mu = H^+ y.

As in the authors' code, squares and products are means over an image's values, so that lambda means the same for a
small measurement as for a large one. There it is the mean over the batch, too; here each image has its own loss, which
makes the same path up to Adam's epsilon, whatever the batch. What is returned is mu after the last step, not before it.
Times are spaced as diffusers does from 0 on (`leading`), which is as there where the steps divide the T times.

Source: Mardani, Song, Kautz and Vahdat, A Variational Perspective on Solving Inverse Problems with Diffusion Models,
ICLR 2024, arXiv 2305.04391, algorithm 1, with the weights and optimizer of the authors' code.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from numpy.typing import ArrayLike
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, positive
from datamodules.corruptions.operators.interface import Operator
from datamodules.distributed.collectives import run_seed
from lightning_modules.diffusion.measured_restoration import Draw, MeasuredRestoration
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol
from lightning_modules.optim.optimizers import adam, constant
from lightning_modules.sde.ddim import level
from lightning_modules.sde.discrete import Prediction, noise_estimate, noised, predicted

Weighting = Literal["linear", "sqrt", "square", "log", "clipped", "constant", "power"]
Order = Literal["descending", "random", "ascending"]
WEIGHTINGS: dict[Weighting, Callable[[float], float]] = {
    "linear": lambda r: r,
    "sqrt": lambda r: r**0.5,
    "square": lambda r: r**2,
    "log": lambda r: float(np.log1p(r)),
    "clipped": lambda r: min(r, 1.0),
    "constant": lambda r: 1.0,
    "power": lambda r: r ** (2 / 3),
}
"""f, by its name."""


def noise_to_signal(abar: float) -> float:
    """Compute r_t = sqrt(1 - abar_t) / sqrt(abar_t)."""
    return ((1 - abar) / abar) ** 0.5


def red_diff_loss(measured: Tensor, operator: Operator, image: Tensor, error: Tensor, weight: float) -> Tensor:
    """Compute L, summed over images.

    Args:
        measured: y, `[B, ...]`.
        operator: H.
        image: x, `[B, C, H, W]` in [-1, 1].
        error: e_theta(x_t, t) - e, `[B, C, H, W]`; it passes no gradient on.
        weight: lambda f(r_t).
    """
    residual = (measured - operator.forward(image)).flatten(1)
    regularisation = (error.detach() * image).flatten(1)
    return (residual.square().mean(dim=1) / 2 + weight * regularisation.mean(dim=1)).sum()


def red_diff(
    model: Callable[..., Any],
    measured: Tensor,
    operator: Operator,
    times: Sequence[int],
    abar: ArrayLike,
    prediction: Prediction = "epsilon",
    strength: float = 0.25,
    weighting: Weighting = "linear",
    learning_rate: float = 0.1,
    sigma: float = 0.0,
    draw: Draw = torch.randn_like,
) -> Tensor:
    """Find images from their measurements.

    Args:
        model: called with x_t and t `[B]`, without gradients.
        measured: y, `[B, ...]`.
        operator: H.
        times: times in the order in which they are visited.
        abar: `[T]`, on the host.
        prediction: quantity that the model predicts.
        strength: lambda.
        weighting: f.
        learning_rate: of Adam, with betas 0.9 and 0.99.
        sigma: deviation of the approximate posterior.
        draw: gives standard normal noise of the shape of a tensor.

    Returns:
        mu, `[B, C, H, W]` in [-1, 1], not clipped.
    """
    mu = operator.pseudo_inverse(measured).detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([mu], lr=learning_rate, betas=(0.9, 0.99))
    for t in times:
        abar_t = level(abar, t)
        image = mu + sigma * draw(mu) if sigma else mu
        noise = draw(mu)
        with torch.no_grad():
            noisy = noised(image, noise, abar_t)
            error = noise_estimate(predicted(model, noisy, t), noisy, abar_t, prediction) - noise
        weight = strength * WEIGHTINGS[weighting](noise_to_signal(abar_t))
        optimizer.zero_grad()
        red_diff_loss(measured, operator, image, error, weight).backward()
        optimizer.step()
    return mu.detach()


class REDDiff(MeasuredRestoration, MethodModule):
    """Find images from measurements with a diffusion model, by RED-diff; `test` and `predict` are what it does.

    The network is a diffusion model that is trained, or `fit` trains it. Images of a batch are found together, at the
    cost of one evaluation of the network in a step.

    Args:
        network: called with images in [-1, 1] and times `[B]`, it gives `[B, C or 2 C, H, W]` or, as a U-Net of
            diffusers, an object that has it as `sample`.
        scheduler: scheduler that the network was trained with, of which levels and prediction type are used.
        steps: steps of Adam, one for each time that is visited.
        strength: lambda, weight of the diffusion model against the measurement.
        weighting: weight of a time by its noise-to-signal ratio r: linear, sqrt, square, log (of 1 + r), clipped (at
            1), constant or power (2/3).
        learning_rate: of Adam.
        sigma: standard deviation of the approximate posterior; 0 is a point.
        order: descending visits times from the noisiest on, as the method does, ascending from the cleanest, random
            in any order.
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
        strength: float = 0.25,
        weighting: Weighting = "linear",
        learning_rate: float = 0.1,
        sigma: float = 0.0,
        order: Order = "descending",
        protocol: EvaluationProtocol = "clipped",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.take(network, scheduler, steps, protocol, optimizer, lr_scheduler)
        at_least(0, strength=strength, sigma=sigma)
        positive(learning_rate=learning_rate)
        one_of(tuple(WEIGHTINGS), weighting=weighting)
        one_of(("descending", "random", "ascending"), order=order)
        self.strength = strength
        self.weighting: Weighting = weighting
        self.learning_rate = learning_rate
        self.sigma = sigma
        self.order = order

    def found(self, measured: Tensor, operator: Operator, draw: Draw) -> Tensor:
        times = self.times()[:-1]
        if self.order == "ascending":
            times = times[::-1]
        elif self.order == "random":
            times = np.random.default_rng(run_seed()).permutation(times).tolist()
        return red_diff(
            self.predicted_by,
            measured,
            operator,
            times,
            self.abar,
            self.prediction,
            self.strength,
            self.weighting,
            self.learning_rate,
            self.sigma,
            draw,
        )
