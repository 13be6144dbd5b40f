"""The scalar map: its values, its window and the sign of the mean residual."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.dynamics.benign_oscillation.scalar_map import GREATEST_A, bifurcation, orbit, scalar_map, window


@pytest.mark.parametrize(("a", "distance", "mean"), [(1.05, 0.21, 0.024), (1.2, 0.38, 0.083), (1.4, 0.36, 0.114)])
def test_orbits_of_known_size(a: float, distance: float, mean: float) -> None:
    found = orbit(torch.tensor([a], dtype=torch.float64))
    assert float((1 - found.last).abs().mean()) == pytest.approx(distance, rel=0.2)
    assert float(found.mean_residual) == pytest.approx(mean, rel=0.2)


def test_below_one_the_orbit_ends_at_one() -> None:
    found = orbit(torch.tensor([0.95], dtype=torch.float64))
    assert float((1 - found.last).abs().max()) < 1e-6
    assert float(found.mean_residual) < 1e-3


def test_where_it_oscillates_the_mean_residual_is_positive() -> None:
    a = torch.linspace(1.01, GREATEST_A, 60, dtype=torch.float64)
    found = orbit(a, steps=20_000)
    assert float(found.mean_residual.min()) > 1e-3
    assert bool((found.last > 0).all())
    assert bool((1 + a * (1 - found.last) > 0).all())


@given(st.floats(0, 1), st.floats(0.01, GREATEST_A))
def test_up_to_the_greatest_a_no_step_leaves_the_interval(share: float, a: float) -> None:
    s = torch.tensor(share * (1 + a) / a, dtype=torch.float64)
    assert -1e-12 <= float(scalar_map(s, torch.tensor(a))) <= (1 + a) / a * (1 + 1e-9)


def test_beyond_it_one_does() -> None:
    a = GREATEST_A + 1e-3
    assert float(scalar_map(torch.tensor((1 + a) / (3 * a)), torch.tensor(a))) > (1 + a) / a


def test_the_window_is_the_papers() -> None:
    least, greatest = window(8, 1.0)
    assert least == pytest.approx(2)
    assert greatest == pytest.approx(3.2, abs=0.005)
    assert window(16, 2.0) == pytest.approx((least / 2, greatest / 2))


def test_the_picture_forks_at_one() -> None:
    a, s, mean = (torch.tensor(each) for each in bifurcation(count=40))
    assert len(a) == len(s) == len(mean) == 1600
    assert float((s[a < 0.98] - 1).abs().max()) < 1e-6
    of_fork = s[(a > 1.05) & (a < 1.2)]
    assert float((of_fork - 1).abs().min()) > 0.1
    assert float(mean.min()) >= 0
