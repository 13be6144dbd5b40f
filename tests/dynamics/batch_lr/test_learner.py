"""The values that rules learn on quadratic losses with known best rates, and rejections."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.dynamics.batch_lr.learner import (
    OnlineLearner,
    Rule,
    curvature_range,
    learner_settings,
    rayleigh_rate,
    set_keys,
)
from lightning_modules.metrics.curvature import CurvatureProduct
from lightning_modules.metrics.lanczos import Spectrum
from tests.metrics.test_curvature import explicit

CURVATURES = torch.linspace(0.5, 8.0, 16, dtype=torch.float64)


def distance(steps: int, start: float = 1.0, nesterov: bool = False, **options: float) -> Tensor:
    """Minimise sum_i h_i w_i^2 / 2 with torch's SGD, and return |w|."""
    w = nn.Parameter(torch.full_like(CURVATURES, start))
    optimizer = torch.optim.SGD([w], nesterov=nesterov, **options)
    for _ in range(steps):
        w.grad = CURVATURES * w.detach()
        optimizer.step()
    return w.detach().norm()


def test_descent_is_stable_up_to_two_over_the_greatest_curvature() -> None:
    assert distance(2000, lr=1.99 / 8) < 1e-3
    assert distance(2000, lr=2.01 / 8) > 1e3


@pytest.mark.parametrize(
    ("rule", "nesterov", "factor"),
    [
        ("ssgd", False, (8 - 0.5) / (8 + 0.5)),
        ("ssgdm", False, (math.sqrt(8) - math.sqrt(0.5)) / (math.sqrt(8) + math.sqrt(0.5))),
        ("nesterov", True, 1 - math.sqrt(0.5 / 8)),
    ],
)
def test_the_rules_reach_the_rates_of_convergence_of_theory(rule: Rule, nesterov: bool, factor: float) -> None:
    values = learner_settings(rule, 8.0, 0.5)
    early, late = (float(distance(steps, nesterov=nesterov, **values)) for steps in (200, 260))
    assert (late / early) ** (1 / 60) == pytest.approx(factor, rel=0.01)
    if rule == "ssgdm":
        assert factor == pytest.approx(math.sqrt(values["momentum"]))


def test_the_rule_of_the_authors_code_is_as_coded() -> None:
    assert learner_settings("ssgdmn", 8.0, 0.5) == {"lr": 0.25, "momentum": pytest.approx(0.6)}
    assert learner_settings("ssgdm", 9.0, 4.0) == {"lr": pytest.approx(0.16), "momentum": pytest.approx(0.04)}


def test_ritz_values_keep_their_weights_and_negative_ones_may_be_left_out() -> None:
    values = torch.tensor([-6.0, -0.5, 0.01, 1.0, 4.0], dtype=torch.float64)
    spectrum = Spectrum(values, torch.tensor([0.05, 0.1, 0.6, 0.15, 0.1], dtype=torch.float64))
    assert curvature_range(spectrum, "median", signed=False) == (6.0, 1.0)
    assert curvature_range(spectrum, "median", signed=True) == (4.0, 1.0)
    assert curvature_range(spectrum, "minimum", signed=False) == (6.0, 0.5)  # without the spike at 0.01
    assert curvature_range(spectrum, "minimum", signed=True) == (4.0, 1.0)
    light = Spectrum(values, torch.full((5,), 0.2, dtype=torch.float64))
    assert curvature_range(light, "minimum", signed=False) == (6.0, 0.01)
    assert math.isnan(curvature_range(Spectrum(-values[:1].abs(), light.weights[:1]), "median", signed=True).greatest)


def test_the_rate_along_the_gradient_lies_between_the_inverse_curvatures() -> None:
    for seed in range(20):
        g = torch.randn(16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert 1 / 8 <= rayleigh_rate(g, CURVATURES * g) <= 2
    assert math.isnan(rayleigh_rate(torch.zeros(2), torch.zeros(2)))


def small() -> CurvatureProduct:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return CurvatureProduct(network, [(torch.randn(11, 5, dtype=torch.float64), torch.arange(11) % 3)])


def test_what_is_measured_of_a_network_is_of_its_explicit_hessian() -> None:
    product = small()
    network: Any = product.network
    values = torch.linalg.eigvalsh(explicit(network, list(product.batches)))
    taken, found = OnlineLearner("ssgd", steps=39, signed=True).measure(product)
    positive = values[values > 1e-9]
    assert found["greatest_curvature"] == pytest.approx(float(positive[-1]))
    assert taken["lr"] == pytest.approx(2 / (found["greatest_curvature"] + found["least_curvature"]))
    taken, found = OnlineLearner("rayleigh").measure(product)
    [(x, y)] = product.batches
    F.cross_entropy(network(x), y).backward()
    g = torch.cat([each.grad.flatten() for each in network.parameters()])
    along = float(g @ explicit(network, [(x, y)]) @ g / (g @ g))
    assert found == {"curvature_along_gradient": pytest.approx(along)}
    assert taken == ({"lr": pytest.approx(1 / along)} if along > 0 else {})


def test_what_is_no_rate_is_not_taken() -> None:
    def product(sign: float) -> Any:
        class Turned:
            size, like = 3, torch.zeros((), dtype=torch.float64)

            def __call__(self, v: Tensor) -> Tensor:
                return sign * v

            def gradient(self) -> Tensor:
                return torch.ones(3, dtype=torch.float64)

        return Turned()

    assert OnlineLearner("rayleigh").measure(product(-1.0))[0] == {}
    assert OnlineLearner("rayleigh").measure(product(2.0))[0] == pytest.approx({"lr": 0.5})
    assert OnlineLearner("ssgd", signed=True).measure(product(-1.0))[0] == {}
    assert OnlineLearner("ssgd").measure(product(-1.0))[0] == pytest.approx({"lr": 1.0})


def test_all_groups_are_set_and_tensors_stay_tensors() -> None:
    groups: Any = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 3.0}]
    optimizer = torch.optim.Adam(groups, lr=torch.tensor(0.1))
    held = optimizer.param_groups[0]["lr"]
    set_keys(optimizer, {"lr": 0.25})
    assert optimizer.param_groups[0]["lr"] is held
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.25, 0.25]


def test_an_optimizer_without_the_learned_keys_is_refused() -> None:
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    OnlineLearner("ssgd").check(adam)
    with pytest.raises(ValueError, match=r"model.learner.rule ssgdm sets momentum, which Adam lacks"):
        OnlineLearner("ssgdm").check(adam)
    with pytest.raises(ValueError, match=r"rule nesterov needs an optimizer with nesterov: true"):
        OnlineLearner("nesterov").check(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0))
