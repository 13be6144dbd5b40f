import math

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.tables.halfspaces import normal_in_ball
from lightning_modules.probabilistic.tester_learner.marginal_tests import (
    Moments,
    ball_reference,
    caps,
    complement,
    joint_thresholds,
    moments,
    pairs,
    statistic_names,
    statistics,
)
from lightning_modules.probabilistic.tester_learner.suites import Bands, simulate_statistics


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direction(dim: int, seed: int = 5) -> Tensor:
    return torch.nn.functional.normalize(numbers(dim, seed=seed), dim=0)


def by_name(features: Tensor, weight: Tensor, sigma: float = 0.4, degree: int = 4) -> dict[str, float]:
    found = statistics(moments(features, weight, sigma, degree), sigma, degree)
    return dict(zip(statistic_names(degree), found.tolist(), strict=True))


def test_the_complement_completes_a_basis() -> None:
    weight = direction(7)
    basis = torch.cat([weight[:, None], complement(weight)], dim=1)
    torch.testing.assert_close(basis.T @ basis, torch.eye(7, dtype=torch.float64))


def test_statistics_are_operator_norms_of_the_matricised_moments() -> None:
    features, weight, sigma = numbers(4000, 5), direction(5), 0.9
    found = by_name(features, weight, sigma)
    identity = torch.eye(4, dtype=torch.float64)
    normal = sum(
        torch.einsum(f"{one},{two}->ijkl", identity, identity)
        for one, two in (("ij", "kl"), ("ik", "jl"), ("il", "jk"))
    )
    covariance = features.T @ features / 4000 - torch.eye(5, dtype=torch.float64)
    assert found["covariance"] == pytest.approx(torch.linalg.matrix_norm(covariance, 2).item())
    for c in (6, 2):
        inside = (features @ weight).abs() <= sigma / c
        z = (features @ complement(weight))[inside]
        mass = inside.double().mean().item() / math.erf(sigma / c / math.sqrt(2)) - 1
        second, fourth = (
            torch.einsum(how, *[z] * n) / len(z) for how, n in (("ni,nj->ij", 2), ("ni,nj,nk,nl->ijkl", 4))
        )
        assert found[f"mass_band_{c}"] == pytest.approx(abs(mass))
        assert found[f"degree_2_band_{c}"] == pytest.approx(torch.linalg.matrix_norm(second - identity, 2).item())
        whole = torch.linalg.matrix_norm((fourth - normal).reshape(16, 16), 2).item()
        assert found[f"degree_4_band_{c}"] == pytest.approx(whole)
        v = direction(4, seed=c)
        assert abs(((z @ v) ** 4).mean().item() - 3) <= whole


def test_exact_normal_moments_give_zero() -> None:
    count, dim = torch.tensor(1e4, dtype=torch.float64), 4
    identity = torch.eye(dim, dtype=torch.float64)
    share = torch.tensor([math.erf(0.4 / c / math.sqrt(2)) for c in (6, 2)], dtype=torch.float64)
    unit = pairs(identity[1:, 1:]).sum(0)
    fourth = torch.outer(unit, unit) + 2 * torch.eye(6, dtype=torch.float64)
    band = (count * share)[:, None, None]
    exact = Moments(count, count * identity, count * share, band * identity[1:, 1:], band * fourth)
    assert statistics(exact, 0.4, 4).abs().max() < 1e-12
    # and the reference is numerical: the mean of q q^T over many draws
    drawn = pairs(numbers(2_000_000, 3))
    torch.testing.assert_close(drawn.T @ drawn / len(drawn), fourth, rtol=0, atol=0.05)


def test_they_depend_on_neither_the_sign_nor_the_basis_and_add_up_over_parts() -> None:
    features, weight = numbers(5000, 4), direction(4)
    one = by_name(features, weight)
    turn = torch.linalg.qr(numbers(4, 4, seed=3)).Q
    for other in (by_name(features, -weight), by_name(features @ turn, turn.T @ weight)):
        assert other == pytest.approx(one, rel=1e-9)
    parts = [moments(part, weight, 0.4, 4) for part in features.split(777)]
    whole = statistics(Moments(*map(sum, zip(*parts, strict=True))), 0.4, 4)
    assert whole.tolist() == pytest.approx(list(one.values()), rel=1e-9)


@pytest.mark.parametrize("samples", [1, 60])
def test_bands_with_few_points_have_infinite_moments_and_no_nan(samples: int) -> None:
    found = by_name(numbers(samples, 5), torch.eye(5, dtype=torch.float64)[0])
    assert not any(math.isnan(value) for value in found.values())
    assert found["degree_2_band_6"] == found["degree_4_band_2"] == math.inf
    assert math.isfinite(found["covariance"])
    assert math.isfinite(found["mass_band_2"])
    empty = by_name(numbers(100, 5) + 50, torch.eye(5, dtype=torch.float64)[0])
    assert empty["mass_band_6"] == 1


def test_joint_thresholds_pass_the_stated_share_of_normal_samples() -> None:
    drawn = simulate_statistics(Bands(1.0, 4), 600, 3, 400)
    limits = joint_thresholds(drawn, 0.1)
    passed = (drawn <= limits).all(1)
    assert passed.double().mean().item() == pytest.approx(0.9, abs=0.01)
    fresh = torch.stack(
        [statistics(moments(numbers(600, 3, seed=s), direction(3), 1.0, 4), 1.0, 4) for s in range(300)]
    )
    assert (fresh <= limits).all(1).double().mean().item() == pytest.approx(0.9, abs=0.05)


def test_degree_two_leaves_out_the_fourth_moments() -> None:
    assert statistic_names(2) == statistic_names(4)[:5]
    assert torch.equal(caps(4), torch.tensor([0.25, 0.25, 0.25, 0.3, 0.3, 3, 3], dtype=torch.float64))
    features, weight = numbers(3000, 4), direction(4)
    assert list(by_name(features, weight).values())[:5] == pytest.approx(
        list(by_name(features, weight, degree=2).values())
    )


def test_mass_and_moments_of_a_normal_in_a_ball_are_those_of_many_points() -> None:
    x = normal_in_ball((500_000, 3), np.random.default_rng(0))
    found = ball_reference(1.2, 3)
    for i, c in enumerate((6, 2)):
        inside = x[np.abs(x[:, 0]) <= 1.2 / c]
        z = inside[:, 1:]
        assert len(inside) / len(x) == pytest.approx(found.mass[i], rel=0.01)
        assert (z**2).mean() == pytest.approx(found.second[i], rel=0.01)
        assert (z**4).mean() / 3 == pytest.approx(found.fourth[i], rel=0.02)
    assert found.second[0] > 1.1  # normal points have 1
    # in many dimensions, the distances differ little, and the ball contains half of the normal points
    assert ball_reference(0.4, 10_000).fourth == pytest.approx([1, 1], abs=0.01)
