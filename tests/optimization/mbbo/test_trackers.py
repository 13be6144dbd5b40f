import pytest
import torch
from torch import Tensor

from lightning_modules.optimization.mbbo.trackers import in_ball, msvr, storm, with_eigenvalues_above


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_tracker_of_blocks_has_plain_sampling_and_storm_as_limits() -> None:
    e, now, before = numbers(3, 4), numbers(3, 4, seed=1), numbers(3, 4, seed=2)
    assert torch.equal(msvr(e, now, before, 1.0, 0.0), now)
    torch.testing.assert_close(msvr(now, now, now, 0.3, 1.7), now)  # a constant that is known is kept
    torch.testing.assert_close(msvr(e, now, before, 0.3, 0.7), storm(e, now, before, 0.3))
    torch.testing.assert_close(msvr(e, now, before, 0.9, 1.0), 0.1 * e + 0.9 * now + now - before)


def test_without_a_move_storm_is_a_moving_average() -> None:
    z, gradient = numbers(5), numbers(5, seed=1)
    torch.testing.assert_close(storm(z, gradient, gradient, 0.2), 0.8 * z + 0.2 * gradient)


def test_the_projection_of_matrices_is_the_nearest_one_of_its_set() -> None:
    matrix = numbers(4, 5, 5)
    projected = with_eigenvalues_above(matrix, 0.3)
    torch.testing.assert_close(projected, projected.mT)
    assert torch.linalg.eigvalsh(projected).min() >= 0.3 - 1e-12
    torch.testing.assert_close(with_eigenvalues_above(projected, 0.3), projected)
    for seed in range(20):  # no other of the set is nearer
        other = numbers(4, 5, 5, seed=seed + 1)
        other = other @ other.mT + 0.3 * torch.eye(5)
        mixed = 0.9 * projected + 0.1 * other
        assert torch.all((projected - matrix).norm(dim=(1, 2)) <= (mixed - matrix).norm(dim=(1, 2)))


@pytest.mark.parametrize("radius", [0.5, 100.0])
def test_the_projection_onto_a_ball(radius: float) -> None:
    vector = numbers(6, 3)
    projected = in_ball(vector, radius)
    assert projected.norm(dim=1).max() <= radius * (1 + 1e-15)
    inside = vector.norm(dim=1) <= radius
    assert torch.equal(projected[inside], vector[inside])
    torch.testing.assert_close(torch.nn.functional.normalize(projected), torch.nn.functional.normalize(vector))
