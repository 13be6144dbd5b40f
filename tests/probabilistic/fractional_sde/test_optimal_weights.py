"""The weights are optimal, and equal those from quadrature, SciPy, finite differences and the authors' code."""

import math
from itertools import product

import pytest
import torch
from scipy.integrate import dblquad, quad
from scipy.special import gammainc, gammaincc
from torch import Tensor

from lightning_modules.probabilistic.fractional_sde.optimal_weights import (
    incomplete_gammas,
    mean_squared_error,
    normal_equations,
    optimal_weights,
    speeds,
)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def weights(hurst: float, kind: str, horizon: float = 2.0, num_processes: int = 5, gamma_max: float = 20.0) -> Tensor:
    return optimal_weights(speeds(num_processes, gamma_max), number(hurst), horizon, kind)  # type: ignore[arg-type]


def test_speeds_are_geometric_around_one() -> None:
    gamma = speeds(5, 20.0)
    torch.testing.assert_close(gamma[[0, 2, 4]], torch.tensor([0.05, 1, 20], dtype=torch.float64))
    torch.testing.assert_close(gamma[1:] / gamma[:-1], torch.full((4,), 20**0.5, dtype=torch.float64))


Z = torch.tensor([1e-3, 0.05, 1.0, 5.0, 9.999, 10.0, 12.0, 40.0, 120.0, 600.0], dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.55, 0.8, 1.0, 1.45, 2.45])
def test_incomplete_gamma_functions_and_their_derivative(alpha: float) -> None:
    lower, upper = incomplete_gammas(number(alpha), Z)
    torch.testing.assert_close(lower, torch.from_numpy(gammainc(alpha, Z.numpy())), rtol=1e-10, atol=0)
    torch.testing.assert_close(upper, torch.from_numpy(gammaincc(alpha, Z.numpy())) * Z.exp(), rtol=3e-10, atol=0)
    slopes = torch.autograd.functional.jacobian(lambda a: torch.stack(incomplete_gammas(a, Z)), number(alpha))
    step = 1e-5
    above, below = (torch.stack(incomplete_gammas(number(alpha + sign * step), Z)) for sign in (1, -1))
    torch.testing.assert_close(slopes, (above - below) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("hurst", "gamma"), [(0.3, 0.4), (0.7, 3.0)])
def test_the_normal_equations_are_integrals_of_covariances(hurst: float, gamma: float) -> None:
    """Integrals of E B(t) D(t) and of D's second moments, D(t) = Y(t) - Y(0), equal integrals over white noise."""
    power, horizon = hurst - 0.5, 1.5
    unit = 1 / math.gamma(hurst + 0.5)
    recent, _ = quad(lambda v: (horizon - v) * math.exp(-gamma * v), 0, horizon, weight="alg", wvar=(power, 0))
    speed, other = torch.tensor([gamma], dtype=torch.float64), torch.tensor([gamma, 1.0], dtype=torch.float64)
    matrix, right = normal_equations(speed, number(hurst), horizon, "II")
    assert float(right) == pytest.approx(unit * recent, rel=1e-9)
    own, _ = quad(lambda t: (1 - math.exp(-2 * gamma * t)) / (2 * gamma), 0, horizon)
    assert float(matrix) == pytest.approx(own, rel=1e-9)
    past, _ = dblquad(
        lambda w, t: (
            ((t + w**3) ** power - w ** (3 * power)) * math.expm1(-gamma * t) * math.exp(-gamma * w**3) * 3 * w**2
        ),
        *(0, horizon, 0, (40 / gamma) ** (1 / 3)),
    )
    matrix, right = normal_equations(speed, number(hurst), horizon, "I")
    assert float(right) == pytest.approx(unit * (recent + past), rel=1e-6)
    own, _ = quad(lambda t: (1 - math.exp(-gamma * t)) / gamma, 0, horizon)
    assert float(matrix) == pytest.approx(own, rel=1e-9)
    matrix, _ = normal_equations(other, number(hurst), horizon, "I")
    across, _ = quad(lambda t: (2 - math.exp(-gamma * t) - math.exp(-t)) / (gamma + 1), 0, horizon)
    assert float(matrix[0, 1]) == pytest.approx(across, rel=1e-9)


AUTHORS = {  # omega and its derivative with respect to H, from the authors' JAX code in float64
    ("I", 20.0, 6.0, 0.7): (
        [2.29797701206, -1.69847956848, 0.37682552399, -0.694236059554, 0.0768825387072],
        [4.84588912201, -6.46235354185, 0.894790141283, -2.23768066167, 0.846363152563],
    ),
    ("I", 10.0, 2.4, 0.3): (
        [1.10657790937, -0.581241081482, 0.788868610043, -0.415504547655, 1.27272631086],
        [2.68691708997, -1.64402677471, -1.95323630318, 2.16691897259, -9.31827219469],
    ),
    ("II", 20.0, 2.0, 0.7): (
        [2.17989631992, -1.0660698009, -0.351565303634, -0.127758758733, -0.263463313632],
        [5.89989943245, -6.26977035222, -0.754945502545, -0.66178206354, -0.140689762952],
    ),
}


@pytest.mark.parametrize("case", AUTHORS, ids=str)
def test_weights_and_their_derivative_are_the_authors(case: tuple[str, float, float, float], monkeypatch) -> None:
    kind, gamma_max, horizon, hurst = case
    omega, slope = (torch.tensor(values, dtype=torch.float64) for values in AUTHORS[case])
    monkeypatch.setattr("lightning_modules.probabilistic.fractional_sde.optimal_weights.LEVELS", 5)  # authors' value
    gamma = speeds(5, gamma_max)

    def solved(hurst: Tensor) -> Tensor:
        return optimal_weights(gamma, hurst, horizon, kind)  # type: ignore[arg-type]

    torch.testing.assert_close(solved(number(hurst)), omega, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.autograd.functional.jacobian(solved, number(hurst)), slope, rtol=0, atol=1e-8)
    monkeypatch.undo()
    torch.testing.assert_close(solved(number(hurst)), omega, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "hurst"), list(product(["I", "II"], [0.1, 0.3, 0.5, 0.7, 0.9])))
def test_the_derivative_in_h(kind: str, hurst: float) -> None:
    gamma, step = speeds(5, 20.0), 1e-4
    slope = torch.autograd.functional.jacobian(lambda h: optimal_weights(gamma, h, 2.0, kind), number(hurst))
    difference = (weights(hurst + step, kind) - weights(hurst - step, kind)) / (2 * step)
    torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-5 * float(slope.abs().max()))


def test_half_gives_brownian_motion() -> None:
    assert float(weights(0.5, "I").sum()) == pytest.approx(1, abs=1e-10)
    assert float(weights(0.5, "II").sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("kind", "hurst"), list(product(["I", "II"], [0.3, 0.7])))
def test_no_other_weights_have_a_smaller_error(kind: str, hurst: float) -> None:
    gamma, h = speeds(5, 20.0), number(hurst)
    omega = weights(hurst, kind)
    matrix, right = normal_equations(gamma, h, 2.0, kind)  # type: ignore[arg-type]
    torch.testing.assert_close(matrix @ omega, right, rtol=1e-9, atol=0)
    least = mean_squared_error(gamma, omega, h, 2.0, kind)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = omega + 0.01 * torch.randn(5, generator=generator, dtype=torch.float64)
        assert mean_squared_error(gamma, other, h, 2.0, kind) > least  # type: ignore[arg-type]
    assert least >= 0


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_the_error_falls_with_more_processes(hurst: float) -> None:
    few, more, most = (
        float(mean_squared_error(speeds(k, 20.0), weights(hurst, "II", num_processes=k), number(hurst), 2.0, "II"))
        for k in (3, 5, 8)
    )
    assert few > more > most >= 0
