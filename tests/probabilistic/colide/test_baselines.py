"""NOTEARS and GOLEM: gradients, stationarity, a known graph, and their resumed state."""

from typing import Any

import numpy as np
import pytest
import torch

from datamodules.graphs.linear_sem import LinearSEM
from lightning_modules.probabilistic.colide.baselines import GOLEM, NOTEARS, exponential_acyclicity
from lightning_modules.probabilistic.colide.score import Array, covariance
from tests.probabilistic.colide.test_module import learned


def data(nodes: int = 4) -> Array:
    random = np.random.default_rng(0)
    weight = np.triu(random.uniform(0.5, 2, (nodes, nodes)), k=1)
    return covariance(random.standard_normal((500, nodes)) @ np.linalg.inv(np.eye(nodes) - weight))


def test_gradients_are_autograds_and_only_cycles_are_penalised() -> None:
    random, cov, identity = np.random.default_rng(1), data(), torch.eye(4).double()
    start = 0.3 * random.standard_normal((4, 4)) * (1 - np.eye(4))
    weight = torch.from_numpy(start).requires_grad_()
    h = torch.matrix_exp(weight * weight).trace() - 4
    np.testing.assert_allclose(exponential_acyclicity(start)[1], torch.autograd.grad(h, weight)[0], rtol=0, atol=1e-12)
    assert exponential_acyclicity(np.triu(start))[0] == pytest.approx(0, abs=1e-12)
    assert exponential_acyclicity(start)[0] > 1e-3

    residual = identity - weight
    variance = (residual.T @ torch.from_numpy(cov) @ residual).trace()
    h = torch.matrix_exp(weight * weight).trace() - 4
    golem = GOLEM()
    golem.observe(cov)
    golem.weight = start
    objective = 2 * variance.log() - torch.linalg.slogdet(residual).logabsdet + 0.02 * weight.abs().sum() + 5 * h
    assert golem.value() == pytest.approx(objective.item(), rel=1e-12)
    expected = torch.autograd.grad(objective, weight)[0].fill_diagonal_(0)
    np.testing.assert_allclose(golem.gradient(), expected, rtol=0, atol=1e-12)

    notears = NOTEARS()
    notears.observe(cov)
    notears.rho, notears.alpha = 3.0, 0.7
    parts = torch.from_numpy(np.stack([start, -start]).clip(min=0)).requires_grad_()
    weight = parts[0] - parts[1]
    h = torch.matrix_exp(weight * weight).trace() - 4
    fit = ((identity - weight).T @ torch.from_numpy(cov) @ (identity - weight)).trace() / 2
    value = fit + 0.1 * parts.sum() + 1.5 * h**2 + 0.7 * h
    ours = notears.lagrangian(parts.detach().numpy().ravel())
    assert ours[0] == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(ours[1], torch.autograd.grad(value, parts)[0].flatten(), rtol=0, atol=1e-12)


def test_notears_solves_a_chain_in_closed_form() -> None:
    """For x_2 = a x_1 + z and the correct direction, soft thresholding gives a - lambda / var(x_1)."""
    cov = np.array([[1.0, 1.5], [1.5, 1.5**2 + 1]])
    notears = NOTEARS()
    notears.observe(cov)
    while not notears.finished:
        notears.iterate()
    assert notears.weight[0, 1] == pytest.approx(1.5 - 0.1, abs=5e-3)
    assert abs(notears.weight[1, 0]) < 1e-3
    assert notears.acyclicity() <= 1e-8


@pytest.mark.parametrize("kind", [NOTEARS, GOLEM])
def test_they_go_on_from_their_state(kind: Any) -> None:
    whole, rest = kind(), kind()
    for path, steps in ((whole, 2), (rest, 0)):
        path.observe(data())
        for _ in range(steps):
            path.iterate()
    rest = kind()
    rest.load_state_dict(whole.state_dict())
    rest.observe(data())
    for path in (whole, rest):
        for _ in range(2):
            path.iterate()
    np.testing.assert_array_equal(whole.weight, rest.weight)
    assert whole.progress == rest.progress


def test_golem_is_trained_as_colide_is() -> None:
    solver = GOLEM(iterations=1500, learning_rate=3e-3)
    module, trainer, measured = learned(LinearSEM(5, 5, seed=1), solver=solver)
    assert module.path is solver
    assert trainer.global_step == 2
    assert measured["test/shd"] <= 1
    assert measured["test/scale_error"] < 0.1
    assert measured["test/weight_error"] < 0.2
