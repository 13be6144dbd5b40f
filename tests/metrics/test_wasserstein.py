import math

import pytest
import torch

from lightning_modules.metrics.wasserstein import sliced_wasserstein, wasserstein


def test_a_shift_costs_its_length_whatever_the_order() -> None:
    points = torch.randn(40, 3, dtype=torch.float64)
    shift = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
    assert wasserstein(points, points) == 0
    assert wasserstein(points, points[torch.randperm(40)] + shift) == pytest.approx(1.3)
    other = torch.randn(40, 3, dtype=torch.float64)
    assert wasserstein(points, other) == pytest.approx(wasserstein(other, points))


def test_on_a_line_it_is_the_mean_difference_of_what_is_sorted() -> None:
    first, second = torch.randn(2, 300, 1, dtype=torch.float64)
    assert wasserstein(first, second) == pytest.approx(float((first.sort(0)[0] - second.sort(0)[0]).abs().mean()))


def test_a_shift_costs_the_mean_of_its_lengths_along_all_directions() -> None:
    """For v uniform on the unit sphere, E|v_1| is 2 / pi in the plane, and 1 / 2 in space."""
    for dim, share in ((2, 2 / math.pi), (3, 0.5)):
        points = torch.randn(300, dim, dtype=torch.float64)
        shift = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)[:dim]
        moved = points[torch.randperm(300)] + shift
        assert sliced_wasserstein(points, moved, 5_000) == pytest.approx(5 * share, rel=0.03)
        assert sliced_wasserstein(points, moved) == sliced_wasserstein(moved, points)


def test_on_a_line_slices_are_exact_and_elsewhere_no_greater_than_the_distance() -> None:
    first, second = torch.randn(2, 300, 1, dtype=torch.float64)
    assert sliced_wasserstein(first, second) == pytest.approx(wasserstein(first, second))
    first, second = torch.randn(2, 200, 4, dtype=torch.float64)
    assert 0 < sliced_wasserstein(first, second) < wasserstein(first, second)
    with pytest.raises(ValueError, match="got 200 and 199"):
        sliced_wasserstein(first, second[1:])
