"""Score, scales and acyclicity compared with autograd and closed forms, and their invariances."""

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.graphs.linear_sem import LinearSEM
from lightning_modules.probabilistic.colide.score import (
    Array,
    Variant,
    acyclicity,
    covariance,
    gradient,
    noise_scale,
    residual_covariances,
    score,
)

RANDOM = np.random.default_rng(0)
WEIGHT = 0.2 * RANDOM.standard_normal((6, 6))
DATA = RANDOM.standard_normal((50, 6)) @ RANDOM.standard_normal((6, 6)) + 3.0
COV = covariance(DATA)
IDENTITY = np.eye(6)


def objective(
    weight: Tensor, sigma: Tensor, cov: Tensor, mu: float, s: float, penalty: float, constant: bool
) -> Tensor:
    """Compute the same objective with traces and a determinant, as in the equations."""
    residual = torch.eye(len(weight)).double() - weight
    fit = torch.trace(residual.T @ cov @ residual @ torch.diag(1 / sigma)) / 2 + constant * sigma.sum() / 2
    h = len(weight) * np.log(s) - torch.logdet(s * torch.eye(len(weight)).double() - weight * weight)
    return mu * (fit + penalty * weight.abs().sum()) + h


@pytest.mark.parametrize("variant", ["ev", "nv", "ls"])
def test_value_and_gradient_are_autograds(variant: Variant) -> None:
    product, variance = residual_covariances(WEIGHT, COV, IDENTITY)
    sigma = noise_scale(variance, variant)
    weight = torch.from_numpy(WEIGHT).requires_grad_()
    expected = objective(weight, torch.from_numpy(sigma), torch.from_numpy(COV), 0.3, 0.9, 0.05, variant != "ls")
    ours = 0.3 * (score(variance, sigma, variant) + 0.05 * np.abs(WEIGHT).sum()) + acyclicity(WEIGHT, 0.9)
    assert ours == pytest.approx(expected.item(), abs=1e-10)
    (slope,) = torch.autograd.grad(expected, weight)
    inverse = np.linalg.inv(0.9 * IDENTITY - WEIGHT * WEIGHT)
    np.testing.assert_allclose(gradient(WEIGHT, product, sigma, inverse, 0.3, 0.05), slope.numpy(), atol=1e-10)


def test_a_weight_of_zero_has_no_slope_of_the_penalty() -> None:
    zero = np.zeros((6, 6))
    product, variance = residual_covariances(zero, COV, IDENTITY)
    slopes = [gradient(zero, product, np.sqrt(variance), IDENTITY, 1.0, penalty) for penalty in (0.0, 5.0)]
    np.testing.assert_array_equal(*slopes)


@pytest.mark.parametrize("s", [0.7, 1.0, 2.0])
def test_acyclic_graphs_have_no_cost_and_others_have(s: float) -> None:
    acyclic = np.triu(WEIGHT, k=1)
    order = RANDOM.permutation(6)
    assert acyclicity(acyclic[np.ix_(order, order)], s) == pytest.approx(0, abs=1e-12)
    cyclic = acyclic + 0.3 * np.eye(6)[::-1]
    assert acyclicity(cyclic, s) > 1e-6
    assert acyclicity(cyclic[np.ix_(order, order)], s) == pytest.approx(acyclicity(cyclic, s), abs=1e-12)


def test_scales_are_where_the_score_is_least() -> None:
    _, variance = residual_covariances(WEIGHT, COV, IDENTITY)
    each, shared = noise_scale(variance, "nv"), noise_scale(variance, "ev")
    assert score(variance, each, "nv") == pytest.approx(each.sum(), abs=1e-10)
    assert score(variance, shared, "ev") == pytest.approx(6 * shared[0], abs=1e-10)
    for sigma, step in ((each, 1e-3 * IDENTITY[2]), (shared, np.full(6, 1e-3))):
        up, down = (score(variance, sigma + sign * step, "nv") for sign in (1, -1))
        assert min(up, down) > score(variance, sigma, "nv")
        first = torch.from_numpy(sigma).requires_grad_()
        (slope,) = torch.autograd.grad(((torch.from_numpy(variance) / first + first) / 2).sum(), first)
        assert (slope.numpy() * step).sum() == pytest.approx(0, abs=1e-10)
    assert (
        noise_scale(-variance, "nv", floor=0.5).tolist()
        == noise_scale(-variance, "ev", floor=0.5).tolist()
        == [0.5] * 6
    )
    assert noise_scale(variance, "ev", floor=9.0).tolist() == [9.0] * 6
    np.testing.assert_array_equal(noise_scale(np.full(6, 2.0), "ev"), noise_scale(np.full(6, 2.0), "nv"))


def test_the_objective_scales_with_the_data_only_if_lambda_does() -> None:
    def value(data: Array, mu: float, penalty: float) -> float:
        _, variance = residual_covariances(WEIGHT, covariance(data), IDENTITY)
        fit = score(variance, noise_scale(variance, "nv"), "nv")
        return mu * (fit + penalty * np.abs(WEIGHT).sum()) + acyclicity(WEIGHT, 1.0)

    assert value(5 * DATA, 0.3 / 5, 5 * 0.05) == pytest.approx(value(DATA, 0.3, 0.05), abs=1e-10)
    assert abs(value(5 * DATA, 0.3 / 5, 0.05) - value(DATA, 0.3, 0.05)) > 1e-2


def test_scales_of_the_true_graph_are_those_of_the_noise() -> None:
    rows = LinearSEM(8, 12, variance=(0.5, 10.0), samples=20_000, seed=2).training()
    weight, std = rows.truth["w_true"].numpy(), rows.truth["noise_std"].numpy()
    _, variance = residual_covariances(weight, covariance(rows.columns["features"].numpy()), np.eye(8))
    np.testing.assert_allclose(noise_scale(variance, "nv"), std, rtol=0.02)
