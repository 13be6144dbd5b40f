"""The path of stages: its first step, its ends and restarts, and its resumed state."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.probabilistic.colide.path import FLOOR, RegularizationPath, Schedule
from lightning_modules.probabilistic.colide.score import Array, Variant, covariance, gradient

SHORT = Schedule((1.0, 0.9), 1.0, 0.1, 300, 400, 3e-3, 100)


def data(seed: int = 0, nodes: int = 5) -> Array:
    random = np.random.default_rng(seed)
    weight = np.triu(random.uniform(0.5, 2, (nodes, nodes)), k=1)
    return covariance(random.standard_normal((500, nodes)) @ np.linalg.inv(np.eye(nodes) - weight))


def new_path(nodes: int, variant: Variant = "ev", penalty: float = 0.05, **changes: Any) -> RegularizationPath:
    return RegularizationPath(nodes, variant, penalty, replace(SHORT, **changes))


def followed(cov: Array, iterations: int = 10_000, **changes: Any) -> RegularizationPath:
    path = new_path(len(cov), **changes)
    path.observe(cov)
    for _ in range(iterations):
        path.iterate()
    return path


def test_the_first_step_moves_every_weight_by_the_learning_rate() -> None:
    cov = data()
    for penalty in (0.0, 3.0):
        path = followed(cov, 1, penalty=penalty)
        slope = gradient(np.zeros((5, 5)), cov, np.full(5, cov.diagonal().min() ** 0.5), np.eye(5), 1.0, 0.0)
        np.testing.assert_allclose(path.weight, -3e-3 * np.sign(slope), rtol=1e-6)


def test_steps_are_those_of_torchs_adam() -> None:
    cov = data()
    path = followed(cov, 0)
    weight = torch.zeros(5, 5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weight], lr=3e-3, betas=(0.99, 0.999))
    for _ in range(50):
        inverse = np.linalg.inv(np.eye(5) - path.weight**2)
        weight.grad = torch.from_numpy(gradient(path.weight, path.product, path.sigma, inverse, 1.0, 0.05))
        adam.step()
        path.iterate()
        np.testing.assert_allclose(path.weight, weight.detach().numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("variant", "expected"), [("ev", "least"), ("nv", "each"), ("ls", "one")])
def test_scales_begin_with_the_columns_deviations(variant: Variant, expected: str) -> None:
    cov = data()
    std = np.sqrt(cov.diagonal())
    begins = {"least": np.full(5, std.min()), "each": std, "one": np.ones(5)}
    np.testing.assert_allclose(followed(cov, 0, variant=variant).sigma, begins[expected])


def test_stages_end_with_their_iterations_or_where_nothing_changes() -> None:
    path = followed(data(), 299)
    assert (path.stage, path.iteration, path.mu) == (0, 299, 1.0)
    path.iterate()
    assert (path.stage, path.iteration, path.mu, path.s) == (1, 0, 0.1, 0.9)
    assert followed(data(), 700).finished
    nothing = followed(data(), 201, learning_rate=1e-12)  # two evaluations of the same objective
    assert (nothing.stage, nothing.iteration) == (1, 1)


def test_a_step_out_of_the_domain_is_halved_and_a_stage_begins_again_in_a_larger_one() -> None:
    halved = followed(data(), 0, learning_rate=0.4, s=(1.0,))
    turn = halved._turn

    def turn_inside(slope: Array) -> None:
        assert np.linalg.inv(np.eye(5) - halved.weight**2).min() >= -1e-6
        turn(slope)

    halved._turn = turn_inside  # type: ignore[method-assign]
    for _ in range(60):
        halved.iterate()
    assert (halved.s, halved.iteration) == (1.0, 60)
    assert np.log2(0.4 / halved.learning_rate) in range(1, 20)
    path = followed(data(), 0, learning_rate=0.4, s=(0.9,))
    while path.s == 0.9:
        path.iterate()
    assert (path.learning_rate, path.s, path.iteration) == (0.2, 1.0, 0)
    assert not path.weight.any()
    np.testing.assert_allclose(path.sigma, data().diagonal().min() ** 0.5)
    assert not path.mean.any()


def test_a_stage_that_halving_ends_goes_on_with_the_fit_of_the_weights_that_it_keeps() -> None:
    cov = data()
    path = followed(cov, 40)
    inverse, kept = path._inverse, path.weight.copy()
    path.learning_rate = 1e-16  # the next halving is the last one
    path.weight -= 0.1  # a step outside the domain that is large enough to be detected
    path.direction[:] = 1e15
    path.product, path.variance = cov @ np.eye(5), cov.diagonal()
    path._inverse = lambda: -np.ones((5, 5))  # type: ignore[method-assign]
    path.iterate()
    assert (path.stage, path.iteration) == (1, 0)
    np.testing.assert_allclose(path.weight, kept, rtol=0, atol=1e-15)
    residual = np.eye(5) - path.weight
    np.testing.assert_allclose(path.product, cov @ residual, rtol=0, atol=1e-12)
    np.testing.assert_allclose(path.variance, (residual.T @ cov @ residual).diagonal(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(path.sigma, np.sqrt(path.variance.mean()), rtol=1e-12)
    path._inverse = inverse  # type: ignore[method-assign]
    resumed = new_path(5)
    resumed.load_state_dict(path.state_dict())
    resumed.observe(cov)
    for each in (path, resumed):
        each.iterate()
    np.testing.assert_array_equal(path.weight, resumed.weight)


def test_a_scale_stays_above_its_floor() -> None:
    cov = np.ones((2, 2))  # the second column equals the first
    path = new_path(2, "nv", 0.0, s=(3.0,), mu=1e6, iterations=5000, look_every=5000)
    path.observe(cov)
    least = []
    for _ in range(2000):
        path.iterate()
        least.append(path.sigma.min())
    assert min(least) == pytest.approx(FLOOR, rel=1e-12)
    assert np.isfinite(path.weight).all()


def test_it_goes_on_from_its_state() -> None:
    whole, half, rest = followed(data(), 500), followed(data(), 350), new_path(5)
    rest.load_state_dict(half.state_dict())
    rest.observe(data())
    for _ in range(150):
        rest.iterate()
    np.testing.assert_array_equal(whole.weight, rest.weight)
    np.testing.assert_array_equal(whole.sigma, rest.sigma)
    assert whole.state_dict().keys() == rest.state_dict().keys()


def test_two_nodes_have_their_direction() -> None:
    random = np.random.default_rng(0)
    first = random.standard_normal(20_000)
    cov = covariance(np.stack([first, 1.5 * first + random.standard_normal(20_000)], axis=1))
    path = followed(cov, s=(1.0, 0.9, 0.8), warm_iterations=2000, iterations=3000)
    assert path.weight[0, 1] == pytest.approx(1.5, abs=0.1)
    assert abs(path.weight[1, 0]) < 0.05
    np.testing.assert_allclose(path.sigma, 1, atol=0.05)
