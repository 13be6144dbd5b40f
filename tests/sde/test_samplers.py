"""Samplers compared with Gaussian data, for which each step is a linear map, and with the diffusers scheduler."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import ScoreSdeVeScheduler
from torch import Tensor

from lightning_modules.sde.flow import ProbabilityFlow, solve_flow
from lightning_modules.sde.processes import VE, VP, Process, SubVP
from lightning_modules.sde.samplers import (
    Moved,
    PredictorCorrector,
    ancestral,
    annealed_langevin,
    euler_maruyama,
    langevin,
    predict_and_correct,
    reverse_diffusion,
)
from tests.sde.exact import PROCESSES, gaussian_score, mixture_score, shrinkage
from tests.sde.exact import variance as variance_of

MEAN, DEVIATION = 0.7, 0.4


def grid(n: int, end: float = 1e-5) -> list[float]:
    return torch.linspace(1, end, n, dtype=torch.float64).tolist()


def moments(process: Process, update: Any, n: int) -> tuple[float, float]:
    """Compute the exact mean and deviation of samples: a step is x -> a x + c + b z; three probes find a, b and c."""
    score = gaussian_score(process, MEAN, DEVIATION)
    end = torch.ones(1, dtype=torch.float64)
    mean, variance = float(shrinkage(process, end)) * MEAN, float(variance_of(process, end, DEVIATION))
    probes = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    noise = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    for number, t in enumerate(grid(n)):
        moved = update(score, probes, t, n, process, lambda _: noise)
        c, with_a, with_b = (moved.mean if number == n - 1 else moved.x).tolist()  # the last step adds no noise
        a, b = with_a - c, with_b - c
        mean, variance = a * mean + c, a**2 * variance + b**2
    return mean, math.sqrt(variance)


STOCHASTIC = [euler_maruyama, reverse_diffusion, ancestral]
EXPECTED = [(process, update) for process in PROCESSES for update in STOCHASTIC]
EXPECTED = [pair for pair in EXPECTED if not (isinstance(pair[0], SubVP) and pair[1] is ancestral)]


@pytest.mark.parametrize(
    ("process", "update"),
    [*EXPECTED, *((process, partial(update, flow=True)) for process in PROCESSES for update in STOCHASTIC[:2])],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_a_thousand_steps_give_gaussian_data_back(process: Process, update: Any) -> None:
    mean, deviation = moments(process, update, 1000)
    assert mean == pytest.approx(MEAN, abs=0.01)
    assert deviation == pytest.approx(DEVIATION, rel=0.03)


def test_twice_the_steps_halve_the_bias_of_euler_and_maruyama() -> None:
    biases = [moments(VP(), euler_maruyama, n)[1] - DEVIATION for n in (500, 1000, 2000)]
    assert biases[0] / biases[1] == pytest.approx(2, rel=0.1)
    assert biases[1] / biases[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("update", [euler_maruyama, reverse_diffusion])
def test_the_flow_draws_nothing(update: Any) -> None:
    def draw(x: Tensor) -> Tensor:
        raise AssertionError("drawn")

    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = update(gaussian_score(VP(), MEAN, DEVIATION), x, 0.5, 100, VP(), draw, flow=True)
    assert torch.equal(moved.x, moved.mean)


def test_prediction_and_correction_of_ve_are_those_of_diffusers() -> None:
    """Our sampler and the scheduler of diffusers use the same times and noise."""
    scheduler = ScoreSdeVeScheduler(num_train_timesteps=50, snr=0.17, sigma_min=0.01, sigma_max=50.0)
    scheduler.set_timesteps(50)
    scheduler.set_sigmas(50)
    process = VE(0.01, 50.0)
    score = gaussian_score(process, 0.5, 0.3)
    x = ours = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 50

    def draw(seed: int, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)

    for i, t in enumerate(scheduler.timesteps):
        time = t.expand(4)
        x = scheduler.step_correct(score(x, time), x, generator=torch.Generator().manual_seed(2 * i)).prev_sample
        generator = torch.Generator().manual_seed(2 * i + 1)
        moved = scheduler.step_pred(score(x, time), t, x, generator=generator)
        x = moved.prev_sample
        for number, update in enumerate((partial(langevin, snr=0.17), reverse_diffusion)):
            found: Moved = update(score, ours, float(t), 50, process, partial(draw, 2 * i + number))  # type: ignore[operator]
            ours = found.x
        torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.mean, moved.prev_sample_mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("corrector", [langevin, annealed_langevin])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_correction_leaves_the_right_marginal_as_it_is(corrector: Any, process: Process) -> None:
    """For a Gaussian N(0, v) and steps e, the variance (1 - e / v)^2 v + 2 e differs from v by e^2 / v."""
    generator, t = torch.Generator().manual_seed(0), 0.4
    time = torch.tensor([t], dtype=torch.float64)
    score = gaussian_score(process, 0.0, DEVIATION)
    v = float(variance_of(process, time, DEVIATION))
    x = torch.randn(2000, 50, generator=generator, dtype=torch.float64) * math.sqrt(v)
    moved = corrector(
        score, x, t, 1000, process, lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype), 0.16, 20
    )
    assert float(moved.x.var()) == pytest.approx(v, rel=0.06)
    assert float((moved.x * x).mean()) < 0.9 * v  # it has moved


def test_the_step_of_a_correction_follows_from_the_norms() -> None:
    x, noise = torch.ones(2, 4, dtype=torch.float64), torch.full((2, 4), 2.0, dtype=torch.float64)
    moved = langevin(lambda x, t: -x, x, 0.5, 1000, VE(), lambda _: noise, 0.1)
    e = 2 * (0.1 * 2) ** 2
    torch.testing.assert_close(moved.mean, x - e * x)
    torch.testing.assert_close(moved.x, x - e * x + math.sqrt(2 * e) * noise)
    scaled = langevin(lambda x, t: -x, x, 1.0, 1000, VP(), lambda _: noise, 0.1)
    torch.testing.assert_close(scaled.mean, x - e * (1 - 0.02) * x)


def test_complex_data_are_sampled_too() -> None:
    """A complex Gaussian has twice as many real dimensions, each with half of the variance."""
    generator = torch.Generator().manual_seed(0)
    process = VE(0.01, 10.0)

    def draw(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    x = 10 * draw(torch.empty(500, 20, dtype=torch.complex128))
    score = gaussian_score(process, 0.0, DEVIATION)
    corrector = partial(langevin, snr=0.16)
    found = predict_and_correct(score, x, grid(100), process, reverse_diffusion, corrector, draw=draw)
    assert found.is_complex()
    for part in (found.real, found.imag):
        assert float(part.std()) == pytest.approx(DEVIATION / math.sqrt(2), rel=0.1)


def test_samples_of_a_mixture_are_its_points() -> None:
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def draw(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    process = VE(0.01, 10.0)
    sampler = PredictorCorrector(num_steps=50)
    found = sampler(mixture_score(process, points), 10 * draw(torch.empty(300, 2, dtype=torch.float64)), process, draw)
    distance = torch.cdist(found, points)
    assert float(distance.min(dim=1).values.max()) < 1e-3
    assert (distance.argmin(dim=1).bincount() > 70).all()


@pytest.mark.parametrize(("process", "end"), [(VE(), 1e-5), (VP(), 1e-3), (SubVP(), 1e-3)])
@pytest.mark.parametrize("sampler", [PredictorCorrector(corrector="none", num_steps=3), ProbabilityFlow(1e-2)])
def test_samples_end_at_the_time_of_their_process(process: Process, end: float, sampler: Any) -> None:
    times: list[float] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        times.append(float(t[0]))
        return -x

    sampler(score, torch.ones(1, 2, dtype=torch.float64), process, torch.zeros_like)
    assert min(times) == pytest.approx(end)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_flow_has_a_smaller_error_than_the_reverse_process_with_ten_times_the_evaluations(process: Process) -> None:
    score, end = gaussian_score(process, MEAN, DEVIATION), torch.ones(1, dtype=torch.float64)
    first = float(shrinkage(process, end)) * MEAN + variance_of(process, end, DEVIATION).sqrt() * torch.tensor([-1, 1])
    solved = solve_flow(score, first, process, 1.0, 1e-5)
    error = abs(float(solved.x[1] - solved.x[0]) / 2 - DEVIATION)
    for update in STOCHASTIC[:2]:
        assert abs(moments(process, update, 10 * solved.evaluations)[1] - DEVIATION) > 2 * error
