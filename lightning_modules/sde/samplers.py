"""Samplers of the reverse-time process dx = (f - g^2 s) dt + g dw with score s, built from predictors and correctors.

A predictor moves x_t to the next time. A corrector takes Langevin steps at a fixed time:

    x <- x + e s(x, t) + sqrt(2 e) z,     e = 2 a (r |z| / |s|)^2.

Here z is standard normal noise, r is the signal-to-noise ratio, a is a factor that depends on the process, and norms
are averaged over the batch. Predictors and correctors return x and its mean, which is x before noise is added. The mean
that the final step returns is the sample. With `flow`, a predictor adds no noise and follows dx = (f - g^2 s / 2) dt,
the ordinary differential equation with the same marginals as the process.

Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, Score-Based Generative Modeling through Stochastic
Differential Equations, ICLR 2021, arXiv 2011.13456, section 4 and appendices D to G. As in the authors' code, the
corrector is applied before the predictor.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.arguments import at_least, one_of, only_with, positive, within
from lightning_modules.sde.processes import Process, along

Score = Callable[[Tensor, Tensor], Tensor]
"""Function that computes the gradient of log p_t at x, `[B, ...]`, from x and the times t, `[B]`."""
Draw = Callable[[Tensor], Tensor]
"""Function that samples standard normal noise with the shape and dtype of its argument."""


class Moved(NamedTuple):
    """The result of a predictor or corrector step."""

    x: Tensor
    mean: Tensor
    """x before noise is added."""


Project = Callable[[Moved, float], Moved]
"""Function that sets the known entries of samples, such as known pixels, to their values at a given time."""


def times_of(x: Tensor, t: float) -> Tensor:
    """Expand the time t to one entry for each sample, `[B]`."""
    return torch.full((len(x),), t, dtype=x.real.dtype, device=x.device)


def _host(t: float) -> Tensor:
    """Convert t to a CPU tensor in double precision.

    In single precision, rounding errors could lead to the wrong noise level on the grid.
    """
    return torch.tensor([t], dtype=torch.float64, device="cpu")


def euler_maruyama(
    score: Score, x: Tensor, t: float, n: float, process: Process, draw: Draw, flow: bool = False
) -> Moved:
    """Take an Euler-Maruyama step of size 1 / n in the reverse-time process."""
    time = _host(t)
    g = along(process.diffusion(time), x)
    mean = x - (process.drift(x, time) - g**2 * score(x, times_of(x, t)) * (0.5 if flow else 1)) / n
    return Moved(mean, mean) if flow else Moved(mean + g / math.sqrt(n) * draw(x), mean)


def reverse_diffusion(
    score: Score, x: Tensor, t: float, n: float, process: Process, draw: Draw, flow: bool = False
) -> Moved:
    """Reverse the step x_{i+1} = x_i + f_i + G_i z of size 1 / n: compute x - f_i + G_i^2 s + G_i z."""
    f, g = process.step(x, _host(t), n)
    g = along(g, x)
    mean = x - f + g**2 * score(x, times_of(x, t)) * (0.5 if flow else 1)
    return Moved(mean, mean) if flow else Moved(mean + g * draw(x), mean)


def ancestral(score: Score, x: Tensor, t: float, n: float, process: Process, draw: Draw) -> Moved:
    """Sample x_{i-1} given x_i in the discrete model with n levels."""
    mean, deviation = process.ancestral(x, _host(t), n, score(x, times_of(x, t)))
    return Moved(mean + along(deviation, x) * draw(x), mean)


def langevin(
    score: Score, x: Tensor, t: float, n: float, process: Process, draw: Draw, snr: float, num_steps: int = 1
) -> Moved:
    """Take Langevin steps at a fixed time.

    The module docstring defines the step size e, which depends on the norms of the noise and of the score.
    """
    scale, mean = along(process.langevin_scale(_host(t), n), x), x
    for _ in range(num_steps):
        gradient, noise = score(x, times_of(x, t)), draw(x)
        norms = [value.flatten(1).norm(dim=1).mean() for value in (noise, gradient)]
        size = 2 * scale * (snr * norms[0] / norms[1]) ** 2
        mean = x + size * gradient
        x = mean + (2 * size).sqrt() * noise
    return Moved(x, mean)


def annealed_langevin(
    score: Score, x: Tensor, t: float, n: float, process: Process, draw: Draw, snr: float, num_steps: int = 1
) -> Moved:
    """Take Langevin steps of size 2 a (r std)^2 at a fixed time.

    Here a is the factor of the process (`Process.langevin_scale`), r is the argument `snr`, and std is the standard
    deviation of the noise in x_t.
    """
    time, mean = _host(t), x
    size = along(2 * process.langevin_scale(time, n) * (snr * process.kernel(x, time)[1]) ** 2, x)
    for _ in range(num_steps):
        mean = x + size * score(x, times_of(x, t))
        x = mean + (2 * size).sqrt() * draw(x)
    return Moved(x, mean)


Update = Callable[[Score, Tensor, float, float, Process, Draw], Moved]


def predict_and_correct(
    score: Score,
    x: Tensor,
    times: Sequence[float],
    process: Process,
    predictor: Update | None,
    corrector: Update | None = None,
    n: float | Sequence[float] | None = None,
    draw: Draw = torch.randn_like,
    project: Project | None = None,
) -> Tensor:
    """Take corrector and predictor steps at all given times; the last step ends at time 0.

    At each time, the corrector is applied first, and then the predictor.

    Args:
        score: see `Score`.
        x: samples at the first time, `[B, ...]`.
        times: times in decreasing order, usually n equally spaced times from 1 to almost 0.
        process: the process to reverse.
        predictor: `euler_maruyama`, `reverse_diffusion` or `ancestral`, as a function; None uses only the corrector.
        corrector: `langevin` or `annealed_langevin`, as a function whose argument `snr` is already bound; None uses
            only the predictor.
        n: reciprocal of the step size, that is, the number of equal steps from time 1 to time 0. A sequence contains
            one such number for each entry of `times`. None uses the number of times.
        draw: see `Draw`.
        project: function that is applied to the result of each corrector step and each predictor step; see `Project`.

    Returns:
        The mean of the final step, `[B, ...]`.
    """
    moved = Moved(x, x)
    steps = n if isinstance(n, Sequence) else [n or len(times)] * len(times)
    for t, size in zip(times, steps, strict=True):
        for update in (corrector, predictor):
            if update is not None:
                moved = update(score, moved.x, t, size, process, draw)
                moved = moved if project is None else project(moved, t)
    return moved.mean


PREDICTORS = {"euler_maruyama": euler_maruyama, "reverse_diffusion": reverse_diffusion, "ancestral": ancestral}
CORRECTORS = {"langevin": langevin, "annealed_langevin": annealed_langevin}


class PredictorCorrector:
    """Sample by alternating corrector and predictor steps at equally spaced times.

    Args:
        predictor: method that moves samples to the next time; `none` uses only the corrector.
        corrector: method that improves samples at a fixed time; `none` uses only the predictor.
        num_steps: N, number of times; at each of them, the corrector and the predictor take their steps.
        snr: signal-to-noise ratio r of the corrector.
        corrector_steps: number of Langevin steps at each time.
        end: final time; None uses the authors' values: 1e-5 for VE, and 1e-3 for VP and sub-VP.
        flow: whether the predictor follows the probability-flow ODE, which adds no noise, instead of the reverse-time
            process.
    """

    def __init__(
        self,
        predictor: Literal["euler_maruyama", "reverse_diffusion", "ancestral", "none"] = "reverse_diffusion",
        corrector: Literal["langevin", "annealed_langevin", "none"] = "langevin",
        num_steps: int = 1000,
        snr: float = 0.16,
        corrector_steps: int = 1,
        end: float | None = None,
        flow: bool = False,
    ) -> None:
        one_of([*PREDICTORS, "none"], predictor=predictor)
        one_of([*CORRECTORS, "none"], corrector=corrector)
        at_least(2, num_steps=num_steps)
        at_least(1, corrector_steps=corrector_steps)
        positive(snr=snr)
        within(0, 1, "()", end=end)
        langevin_steps = {"snr": snr, "corrector_steps": corrector_steps}
        only_with("a corrector", corrector != "none", PredictorCorrector, **langevin_steps)
        if flow and predictor not in ("euler_maruyama", "reverse_diffusion"):
            raise ValueError(f"flow needs the predictor euler_maruyama or reverse_diffusion, got {predictor}")
        self.num_steps = num_steps
        self.end = end
        update: Any = PREDICTORS.get(predictor)
        self.predictor = partial(update, flow=True) if flow else update
        self.corrector = None
        if corrector != "none":
            self.corrector = partial(CORRECTORS[corrector], snr=snr, num_steps=corrector_steps)

    def check(self, process: Process) -> None:
        """Reject a process for which the predictor is not defined, and steps that are too large for the process.

        Raises:
            ValueError: if the predictor is not defined, or if 1 - beta_i of the first step is negative, or 0 for the
                ancestral predictor, which divides by it.
        """
        if self.predictor is ancestral and type(process).ancestral is Process.ancestral:
            raise ValueError(f"sampler: the predictor ancestral is not defined for {type(process).__name__}")
        if self.predictor is not euler_maruyama or self.corrector is not None:
            first = float(process.langevin_scale(torch.ones(1, dtype=torch.float64, device="cpu"), self.num_steps))
            if first < 0 or (first == 0 and self.predictor is ancestral):
                raise ValueError(
                    f"sampler.num_steps must be above beta_max of {type(process).__name__}, so that 1 - beta_max / "
                    f"num_steps is positive, got {self.num_steps}"
                )

    def __call__(self, score: Score, x: Tensor, process: Process, draw: Draw, project: Project | None = None) -> Tensor:
        """Transform samples x of the prior, `[B, ...]`, into samples of the data; see `predict_and_correct`."""
        end = process.sampling_end if self.end is None else self.end
        times = torch.linspace(1, end, self.num_steps, dtype=torch.float64, device="cpu").tolist()
        return predict_and_correct(score, x, times, process, self.predictor, self.corrector, draw=draw, project=project)
