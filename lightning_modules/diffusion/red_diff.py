"""RED-diff reconstructs an image from a measurement by optimisation, regularised by a diffusion model's denoiser.

The posterior distribution of an image x given the measurement y = H(x) + noise is approximated by a normal distribution
with mean mu and a small or zero standard deviation sigma. The KL divergence between the two distributions contains one
term for each timestep t of a diffusion model, and its gradient does not require derivatives of the network. For each
timestep, from the noisiest to the cleanest, Adam takes one step on the loss

    L(mu) = |y - H(x)|^2 / (2 dim y) + lambda f(r_t) <sg(e_theta(x_t, t) - e), x> / dim x,
    x = mu + sigma e_0,   x_t = sqrt(abar_t) x + sqrt(1 - abar_t) e,   e_0, e ~ N(0, I).

Here dim is the number of values of y or x, r_t = sqrt(1 - abar_t) / sqrt(abar_t) is the noise-to-signal ratio, f is a
weighting function (by default f(r) = r), sg is the stop-gradient operator, and e_theta is the network. The mean mu is
initialised with H^+ y, where H^+ is the pseudo-inverse of H.

As in the authors' code, both terms are averaged over values, so that a suitable lambda does not depend on the size of
the measurement. Departures: the authors' code also averages the loss over the batch. Here, each image has its own loss,
so its optimisation does not depend on the other images of the batch. Apart from the effect of Adam's epsilon, the
iterates are the same as in the authors' code. The result is mu after the last step; in the authors' code, it is mu
before the last step. Timesteps have the `leading` spacing of diffusers, which equals the authors' spacing if T is
divisible by the number of steps.

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
from lightning_modules.diffusion.measured_restoration import Draw, MeasuredRestoration, Model, Problem
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol
from lightning_modules.optim.optimizers import adam, constant
from lightning_modules.sde.ddim import level
from lightning_modules.sde.discrete import Prediction, add_diffusion_noise, noise_estimate, run_diffusion_model

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
"""Weighting functions f by name."""


def noise_to_signal(abar: float) -> float:
    """Compute r_t = sqrt(1 - abar_t) / sqrt(abar_t)."""
    return ((1 - abar) / abar) ** 0.5


def red_diff_loss(measured: Tensor, operator: Operator, image: Tensor, error: Tensor, weight: float) -> Tensor:
    """Compute the loss L, summed over the images of a batch.

    Args:
        measured: y, `[B, ...]`.
        operator: measurement operator H.
        image: x, `[B, C, H, W]`, on the scale of images in [-1, 1].
        error: e_theta(x_t, t) - e, `[B, C, H, W]`; it is treated as a constant.
        weight: lambda f(r_t), weight of the second term.
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
    """Reconstruct images from their measurements.

    Args:
        model: diffusion model, called with x_t and times t, `[B]`. No gradient flows through it.
        measured: y, `[B, ...]`.
        operator: measurement operator H.
        times: timesteps in the order of optimisation.
        abar: abar of all T timesteps, `[T]`, on the CPU.
        prediction: quantity that the model predicts.
        strength: lambda, weight of the regularisation.
        weighting: name of the weighting function f.
        learning_rate: learning rate of Adam, whose betas are 0.9 and 0.99.
        sigma: standard deviation of the approximate posterior distribution.
        draw: function that samples standard normal noise with the shape of its argument.

    Returns:
        mu, `[B, C, H, W]`, on the scale of images in [-1, 1], but not clipped to this range.
    """
    mu = operator.pseudo_inverse(measured).detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([mu], lr=learning_rate, betas=(0.9, 0.99))
    for t in times:
        abar_t = level(abar, t)
        image = mu + sigma * draw(mu) if sigma else mu
        noise = draw(mu)
        with torch.no_grad():
            noisy = add_diffusion_noise(image, noise, abar_t)
            error = noise_estimate(run_diffusion_model(model, noisy, t), noisy, abar_t, prediction) - noise
        weight = strength * WEIGHTINGS[weighting](noise_to_signal(abar_t))
        optimizer.zero_grad()
        red_diff_loss(measured, operator, image, error, weight).backward()
        optimizer.step()
    return mu.detach()


class REDDiff(MeasuredRestoration, MethodModule):
    """Reconstruct images from measurements in `test` and `predict`, by RED-diff with a diffusion prior.

    The network is a pretrained diffusion model, or is trained by `fit`. All images of a batch are optimised at the same
    time; each step evaluates the network once for the whole batch.

    Args:
        network: diffusion model, called with noisy images (clean images are in [-1, 1]) and timesteps `[B]`. Its output
            is a tensor `[B, C or 2 C, H, W]`, or a diffusers output whose attribute `sample` is such a tensor.
        scheduler: scheduler with which the network was trained; only its noise levels and prediction type are used.
        steps: number of Adam steps; each step uses one timestep.
        strength: lambda, weight of the diffusion prior relative to the measurement.
        weighting: weight of a timestep as a function of its noise-to-signal ratio r: linear (r), sqrt (square root of
            r), square (r^2), log (log(1 + r)), clipped (minimum of r and 1), constant (1), or power (r^(2/3)).
        learning_rate: learning rate of Adam.
        sigma: standard deviation of the approximate posterior distribution; 0 gives a point estimate.
        order: order of the timesteps. `descending` starts at the noisiest timestep, as in the paper's algorithm,
            `ascending` starts at the cleanest timestep, and `random` is a random order.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips them to [0, 1] and rounds them
            to 256 levels, `clipped` only clips them, and `unclipped` does not change them.
        optimizer: optimizer of the network's trainable parameters in `fit`.
        lr_scheduler: learning-rate schedule, stepped after every epoch of `fit`.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from datamodules.corruptions.operators import AverageDownsampling
        >>> from lightning_modules.networks.time_conditioned_mlp import TimeConditionedImageMLP
        >>> model = REDDiff(TimeConditionedImageMLP(64), DDIMScheduler(), steps=5)
        >>> model.restore(torch.full((2, 1, 4, 4), 0.5), AverageDownsampling(2)).shape
        torch.Size([2, 1, 8, 8])
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
        super().__init__(network, scheduler, steps, protocol, optimizer, lr_scheduler)
        at_least(0, strength=strength, sigma=sigma)
        positive(learning_rate=learning_rate)
        one_of(tuple(WEIGHTINGS), weighting=weighting)
        one_of(("descending", "random", "ascending"), order=order)
        self.strength = strength
        self.weighting: Weighting = weighting
        self.learning_rate = learning_rate
        self.sigma = sigma
        self.order = order

    def reconstruct(self, model: Model, problem: Problem) -> Tensor:
        times = self.times()[:-1]
        if self.order == "ascending":
            times = times[::-1]
        elif self.order == "random":
            times = np.random.default_rng(problem.seed).permutation(times).tolist()
        return red_diff(
            model,
            problem.measured,
            problem.operator,
            times,
            self.abar,
            self.prediction,
            self.strength,
            self.weighting,
            self.learning_rate,
            self.sigma,
            problem.draw,
        )
