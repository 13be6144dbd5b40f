"""Steps of the equation agree with loops over samples and processes, closed forms, and other step lengths."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.probabilistic.fractional_sde.exact import path_covariance
from lightning_modules.probabilistic.fractional_sde.integration import (
    SolutionPath,
    Solver,
    check_step,
    increments,
    integrate,
)
from lightning_modules.probabilistic.fractional_sde.noise import BrownianNoise, FractionalNoise, Noise


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zero(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def solved(noise: Noise, x: Tensor, dw: Tensor, interval: float, **changes: Any) -> SolutionPath:
    """Integrate the equation with fractional noise; `changes` replace arguments of the solver."""
    settings: dict[str, Any] = {
        **{"substeps": 1, "y": noise.start(x), "gamma": noise.gamma, "omega": noise.omega()},
        **{"drift": zero, "diffusion": torch.ones_like, "control": None, "solver": "euler"},
    }
    return integrate(x, dw=dw, interval=interval, **{**settings, **changes})


def test_a_batch_is_what_loops_over_samples_dimensions_and_processes_give() -> None:
    noise, dt = FractionalNoise(0.3, num_processes=3), 0.02
    x, y, dw = numbers(2, 2), numbers(2, 2, 3, seed=1), 0.1 * numbers(6, 2, 2, seed=2)
    gamma, omega = noise.gamma.tolist(), noise.omega().tolist()
    path = solved(
        *(noise, x, dw, 2 * dt),
        **{"y": y, "substeps": 2, "drift": lambda x: x.sin(), "diffusion": lambda x: 1 + x.square()},
        control=lambda step, x, y: 0.3 * step + x * y.sum(dim=-1),
    )
    assert path.x.shape == (2, 4, 2)
    for sample in range(2):
        spent = 0.0
        for d in range(2):
            now, parts = float(x[sample, d]), y[sample, d].tolist()
            for step in range(6):
                u = 0.3 * step + now * sum(parts)
                changes = [
                    (-g * part + u) * dt + float(dw[step, sample, d]) for g, part in zip(gamma, parts, strict=True)
                ]
                moved = sum(w * change for w, change in zip(omega, changes, strict=True))
                spent += u**2 / 2 * dt
                now += math.sin(now) * dt + (1 + now**2) * moved
                parts = [part + change for part, change in zip(parts, changes, strict=True)]
                if step % 2:
                    assert float(path.x[sample, (step + 1) // 2, d]) == pytest.approx(now, rel=1e-12)
            assert path.y[sample, d].tolist() == pytest.approx(parts, rel=1e-12)
        assert float(path.divergence[sample]) == pytest.approx(spent, rel=1e-12)


def test_all_processes_have_one_brownian_motion() -> None:
    noise, dw = FractionalNoise(0.3, kind="II"), numbers(1, 3, 2)
    assert (solved(noise, torch.zeros(3, 2).double(), dw, 0.01).y == dw[0, :, :, None]).all()


def test_without_a_control_paths_are_the_priors_and_cost_nothing() -> None:
    noise, x, dw = FractionalNoise(0.7, kind="II"), torch.zeros(4, 1).double(), numbers(50, 4, 1)
    prior = solved(noise, x, dw, 0.02)
    posterior = solved(noise, x, dw, 0.02, control=lambda step, x, y: torch.zeros_like(x))
    assert (prior.x == posterior.x).all()
    assert not prior.divergence.any()
    assert not posterior.divergence.any()


def test_a_constant_control_costs_half_its_square_over_time() -> None:
    u = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.zeros(3, 2).double()
    path = solved(
        FractionalNoise(0.7), x, numbers(100, 3, 2), 0.02, control=lambda step, x, y: u.expand_as(x), substeps=4
    )
    torch.testing.assert_close(path.divergence, (2 * u.detach() ** 2 / 2 * 25 * 0.02).expand(3), rtol=1e-12, atol=0)
    path.divergence.mean().backward()
    assert float(u.grad) == pytest.approx(2 * 0.7 * 25 * 0.02, rel=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_paths_of_the_prior_have_the_covariance_of_the_equation(hurst: float, kind: Any) -> None:
    noise, count, steps, dt = FractionalNoise(hurst, kind, horizon=2.0), 20_000, 100, 0.02
    torch.manual_seed(0)
    x = torch.zeros(count, 1)
    path = solved(noise, x, increments(x, steps, dt), dt).x[:, :, 0].double()
    exact = path_covariance(noise, 0.0, dt, steps + 1)
    for time in (50, 100):
        error = float(exact[time, time]) * math.sqrt(2 / count)
        assert float(path[:, time].var()) == pytest.approx(float(exact[time, time]), abs=3 * error + 0.02)
    assert float((path[:, 50] * path[:, 100]).mean()) == pytest.approx(float(exact[50, 100]), abs=0.07)


def test_the_gradient_in_h_goes_through_all_steps() -> None:
    x, dw = torch.zeros(2, 1).double(), numbers(40, 2, 1)
    noise = FractionalNoise(kind="II", horizon=2.0).double()
    raw = noise.hurst_raw
    assert raw is not None

    def end() -> Tensor:
        return solved(noise, x, dw, 0.02, diffusion=lambda x: 1 + x.square() / 9).x[:, -1].square().sum()

    end().backward()
    with torch.no_grad():
        values = []
        for shift in (1e-5, -1e-5):
            raw.fill_(shift)
            values.append(float(end()))
    assert float(raw.grad) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)  # type: ignore[arg-type]


def test_white_noise_is_the_plain_latent_equation() -> None:
    x, dw = numbers(4, 2), 0.1 * numbers(30, 4, 2, seed=1)
    path = solved(
        *(BrownianNoise().double(), x, dw, 0.01),
        **{"drift": lambda x: -x, "diffusion": lambda x: 1 + x**2},
        control=lambda step, x, y: x.cos() + y[..., 0],
    )
    plain, w = x, torch.zeros_like(x)
    for noise in dw:
        u = plain.cos() + w
        plain, w = plain - plain * 0.01 + (1 + plain**2) * (u * 0.01 + noise), w + u * 0.01 + noise
    torch.testing.assert_close(path.x[:, -1], plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("solver", "order"), [("milstein", 1.0), ("euler", 0.5)])
def test_geometric_motion_in_the_sense_of_the_solver(solver: Solver, order: float) -> None:
    """The solution is x exp(s W) in the Stratonovich sense, and x exp(s W - s^2 t / 2) in the Ito sense."""
    s, count, finest = 0.5, 2000, 256
    dw = numbers(finest, count, 1) / math.sqrt(finest)
    x = torch.ones(count, 1).double()
    exact = (s * dw.sum(dim=0) - (s**2 / 2 if solver == "euler" else 0)).exp()
    errors = []
    for steps in (16, 64, 256):
        coarse = dw.unflatten(0, (steps, -1)).sum(dim=1)
        end = solved(BrownianNoise(), x, coarse, 1 / steps, diffusion=lambda x: s * x, solver=solver).x[:, -1]
        errors.append(float((end - exact).abs().mean()))
    slope = math.log(errors[0] / errors[2]) / math.log(16)
    assert slope == pytest.approx(order, abs=0.1)


def test_solvers_agree_where_the_diffusion_is_constant() -> None:
    noise, x, dw = FractionalNoise(0.3, kind="II"), torch.zeros(3, 2).double(), 0.1 * numbers(20, 3, 2)
    paths = [solved(noise, x, dw, 0.01, drift=torch.sin, solver=solver).x for solver in ("euler", "milstein")]
    assert (paths[0] == paths[1]).all()


def test_steps_of_half_a_decay_are_short_enough() -> None:
    check_step(20.0, 0.1, 5)


def test_networks_in_half_precision_leave_paths_in_their_own() -> None:
    noise, x, dw = FractionalNoise(0.3), torch.zeros(3, 2), numbers(4, 3, 2).float()
    layer = torch.nn.Linear(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        path = solved(noise, x, dw, 0.01, drift=layer, control=lambda step, x, y: layer(x), solver="milstein")
    assert {path.x.dtype, path.y.dtype, path.divergence.dtype} == {torch.float32}
