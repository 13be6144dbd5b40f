import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.robustness.mahalanobis.local_dimension import NEIGHBOURS, in_mini_batches, local_dimension


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(point: list[float], reference: list[list[float]], k: int) -> float:
    """Compute the formula literally."""
    r = sorted(math.dist(point, other) for other in reference)[1 : k + 1]
    return -k / sum(math.log(r_j / r[-1]) for r_j in r)


@pytest.mark.parametrize("d", [2, 5, 12])
def test_the_centre_of_a_uniform_ball_has_its_dimension(d: int) -> None:
    """There, -log(r_j / r_k) is exponentially distributed with rate d for j < k, so LID has mean k d / (k - 2)."""
    trials, total = 1500, torch.zeros(len(NEIGHBOURS), dtype=torch.float64)
    direction, random = numbers(trials, 99, d, seed=d), torch.Generator().manual_seed(d)
    radius = torch.rand(trials, 99, 1, generator=random, dtype=torch.float64) ** (1 / d)
    ball = direction / direction.norm(dim=2, keepdim=True) * radius
    centre = torch.zeros(1, d, dtype=torch.float64)
    for points in ball:
        total += local_dimension(centre, torch.cat([points, centre]))[0]
    k = torch.tensor(NEIGHBOURS, dtype=torch.float64)
    torch.testing.assert_close(total / trials, d * k / (k - 2), rtol=0.03, atol=0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_it_is_the_formula(seed: int, scale: float) -> None:
    """Some images are in the mini-batch and some are not; the features are not centred on the origin."""
    reference, others = scale * (numbers(40, 6, seed=seed) + 10), scale * (numbers(3, 6, seed=seed + 1) + 10)
    features = torch.cat([reference[:3], others])
    found = local_dimension(features, reference, [2, 7, 39])
    expected = [[slow(point, reference.tolist(), k) for k in (2, 7, 39)] for point in features.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0)


def test_single_precision_is_computed_in_double() -> None:
    features = numbers(20, 3).float()
    found = local_dimension(features, features, [5])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, local_dimension(features.double(), features.double(), [5]), rtol=0, atol=0)


def test_copies_and_points_at_one_distance_have_finite_dimensions() -> None:
    same = torch.ones(5, 2, dtype=torch.float64)
    assert local_dimension(same, same, [3]).tolist() == [[0.0]] * 5
    corners = torch.eye(4, dtype=torch.float64)  # a simplex: all distances are equal
    assert torch.isfinite(local_dimension(corners, corners, [3])).all()
    assert float(local_dimension(corners, corners, [3]).min()) > 1e12
    twins = torch.cat([numbers(5, 2), numbers(5, 2)])
    found = local_dimension(twins, twins, [6])
    assert torch.isfinite(found).all()
    assert float(found.max()) < 0.02  # a zero distance is replaced by the smallest positive number


def test_where_neighbours_are_wanting_all_are_taken() -> None:
    features = numbers(8, 3)
    torch.testing.assert_close(local_dimension(features, features, [90]), local_dimension(features, features, [7]))
    with pytest.raises(ValueError, match="at least 3 reference features and 2 neighbours, got 2 and 10"):
        local_dimension(features, features[:2])
    with pytest.raises(ValueError, match="got 8 and 1"):
        local_dimension(features, features, [1])


def test_images_and_their_copies_are_measured_by_the_clean_ones_of_their_mini_batch() -> None:
    clean, noisy = numbers(25, 3), numbers(25, 3, seed=1)
    found = in_mini_batches([clean, noisy], [4], mini_batch=10)
    for part, whole in zip(found, (clean, noisy), strict=True):
        torch.testing.assert_close(part[:10], local_dimension(whole[:10], clean[:10], [4]))
        torch.testing.assert_close(part[10:], local_dimension(whole[10:], clean[10:], [4]))  # the last 15
    [few] = in_mini_batches([clean[:7]], [4], mini_batch=10)
    torch.testing.assert_close(few, local_dimension(clean[:7], clean[:7], [4]))
    assert len(in_mini_batches([clean[:20]], [4], mini_batch=10)[0]) == 20
