"""Cost of a step of the equation with five Ornstein-Uhlenbeck processes, relative to a step with one."""

from collections.abc import Callable

import pytest
import torch

from lightning_modules.probabilistic.fractional_sde.integration import increments, integrate
from lightning_modules.probabilistic.fractional_sde.layers import tanh_layers
from lightning_modules.probabilistic.fractional_sde.noise import BrownianNoise, FractionalNoise, Noise
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark


def steps(noise: Noise) -> Callable[[], None]:
    """Return a function that takes 100 steps of 32 paths in six dimensions, forward and backward.

    The networks have the widths that the paper uses for videos.
    """
    x = torch.zeros(32, 6)
    drift = tanh_layers(6, (200, 200), 6)
    control = tanh_layers(6 * (noise.num_processes + 1), (200, 200), 6)
    dw = increments(x, 100, 0.02)

    def work() -> None:
        path = integrate(
            *(x, noise.start(x), dw, 0.02, 1, noise.gamma, noise.omega()),
            drift=drift,
            diffusion=torch.ones_like,
            control=lambda step, x, y: control(torch.cat([x, y.flatten(1)], dim=1)),
            solver="euler",
        )
        (path.x.square().mean() + path.divergence.mean()).backward()

    return work


def test_five_processes_against_one(report: Callable[[str, float, str], None]) -> None:
    ratio = paired_ratio(steps(FractionalNoise(0.7)), steps(BrownianNoise()))
    report("time of a step of the equation with K = 5 over K = 1, forward and backward", ratio, "<= 1.5")
    assert ratio <= 1.5
