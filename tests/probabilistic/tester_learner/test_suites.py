import math

import pytest
import torch
from torch import Tensor

from lightning_modules.probabilistic.tester_learner.marginal_tests import complement, joint_thresholds
from lightning_modules.probabilistic.tester_learner.suites import (
    Bands,
    GlobalMoments,
    Strips,
    simulate_statistics,
    suite_of,
)
from tests.probabilistic.tester_learner.test_marginal_tests import direction, numbers

SIGMA, STRIPS = 0.4, 5


def by_name(suite: Bands, features: Tensor, weight: Tensor) -> dict[str, float]:
    return dict(zip(suite.names, suite.statistics(suite.sums(features, weight)).tolist(), strict=True))


def passes(suite: Bands, features: Tensor, weight: Tensor) -> dict[str, bool]:
    found = suite.statistics(suite.sums(features, weight))
    limits = torch.minimum(
        joint_thresholds(simulate_statistics(suite, len(features), features.shape[1], 40), 0.05), suite.caps
    )
    return dict(zip(suite.names, (found <= limits).tolist(), strict=True))


def test_strips_have_the_mass_and_the_greatest_eigenvalue_of_their_points() -> None:
    features, weight = numbers(5000, 4), direction(4)
    found = by_name(Strips(SIGMA, 4), features, weight)
    distance, z = (features @ weight).abs(), features @ complement(weight)
    for i in range(STRIPS + 1):
        inside = (distance >= i * SIGMA) & (distance < ((i + 1) * SIGMA if i < STRIPS else math.inf))
        upper = math.erf((i + 1) * SIGMA / math.sqrt(2)) if i < STRIPS else 1.0
        mass = inside.double().mean().item() / (upper - math.erf(i * SIGMA / math.sqrt(2)))
        assert found[f"mass_strip_{i}"] == pytest.approx(mass - 1)
        second = torch.einsum("ni,nj->ij", z[inside], z[inside]) / inside.sum()
        assert found[f"degree_2_strip_{i}"] == pytest.approx(torch.linalg.matrix_norm(second, 2).item() - 1)
    bands = by_name(Bands(SIGMA, 4), features, weight)
    assert {name: found[name] for name in bands} == bands
    by_parts = [Strips(SIGMA, 4).sums(part, weight) for part in features.split(777)]
    whole = Strips(SIGMA, 4).statistics(tuple(map(sum, zip(*by_parts, strict=True))))
    assert whole.tolist() == pytest.approx(list(found.values()), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("angle", [0.05, 0.3, 1.0])
def test_masses_and_eigenvalues_of_strips_bound_where_two_halfspaces_differ(seed: int, angle: float) -> None:
    """For any sample, P[signs differ] <= sum_i p_i min{1, c_i (tan th / (i sigma))^2}."""
    features = numbers(4000, 3, seed=seed) * torch.tensor([1.0, 3.0, 0.2]) + torch.tensor([0.3, 0.0, 0.1])
    w = direction(3, seed + 1)
    other = math.cos(angle) * w + math.sin(angle) * (complement(w) @ direction(2, seed + 2))
    differ = ((features @ w).sign() != (features @ other).sign()).double().mean().item()
    found, bound = by_name(Strips(SIGMA, 2), features, w), 0.0
    for i in range(STRIPS + 1):
        upper = math.erf((i + 1) * SIGMA / math.sqrt(2)) if i < STRIPS else 1.0
        mass = (1 + found[f"mass_strip_{i}"]) * (upper - math.erf(i * SIGMA / math.sqrt(2)))
        far = (1 + found[f"degree_2_strip_{i}"]) * (math.tan(angle) / (i * SIGMA)) ** 2 if i else 1.0
        bound += mass * min(1.0, far)
    assert 0 < differ <= bound + 1e-12


def test_only_strips_see_what_is_far_from_the_boundary() -> None:
    """The second moment is 1.3 in strip 2 and smaller in strip 3, so that the covariance of all points is I."""
    features, w = numbers(20_000, 3), torch.eye(3, dtype=torch.float64)[0]
    assert all(passes(Strips(SIGMA, 4), features, w).values())
    assert all(passes(GlobalMoments(SIGMA, 4), features, w).values())
    strip = (features[:, 0].abs() / SIGMA).floor()
    share = [(strip == i).double().mean().item() for i in (2, 3)]
    features[strip == 2, 1] *= math.sqrt(1.3)
    features[strip == 3, 1] *= math.sqrt(1 - 0.3 * share[0] / share[1])
    assert all(passes(Bands(SIGMA, 4), features, w).values())
    failed = [name for name, passed in passes(Strips(SIGMA, 4), features, w).items() if not passed]
    assert failed == ["degree_2_strip_2"]


@pytest.mark.parametrize("degree", [2, 4])
def test_moments_of_all_points_ignore_the_halfspace(degree: int) -> None:
    features, suite = numbers(3000, 3) + 0.1, GlobalMoments(SIGMA, degree)
    found = by_name(suite, features, direction(3))
    assert found == by_name(suite, features, direction(3, 9))
    identity = torch.eye(3, dtype=torch.float64)
    second = torch.einsum("ni,nj->ij", features, features) / 3000 - identity
    assert found["covariance"] == pytest.approx(torch.linalg.matrix_norm(second, 2).item())
    if degree == 4:
        kinds = (("ij", "kl"), ("ik", "jl"), ("il", "jk"))
        normal = sum(torch.einsum(f"{one},{two}->ijkl", identity, identity) for one, two in kinds)
        fourth = torch.einsum("ni,nj,nk,nl->ijkl", *[features] * 4) / 3000 - normal
        assert found["degree_4"] == pytest.approx(torch.linalg.matrix_norm(fourth.reshape(9, 9), 2).item())
    assert len(found) == len(suite.caps) == degree // 2


def test_a_suite_is_named() -> None:
    kinds = {tests: type(suite_of(tests, SIGMA, 4)) for tests in (True, False, "strips", "moments")}  # type: ignore[arg-type]
    assert [Strips(sigma, 4).last for sigma in (0.4, 0.8, 3.0)] == [5, 2, 1]
    assert kinds == {True: Bands, False: Bands, "strips": Strips, "moments": GlobalMoments}
