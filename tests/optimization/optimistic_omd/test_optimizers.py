"""Every learner compared with its equations, implemented again in numpy, and with proven properties of its rounds."""

import copy
import inspect
import math
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.config_files import settings_of
from lightning_modules.optimization.optimistic_omd import (
    ImplicitOMD,
    OnlineGradientDescent,
    OptimisticEnsemble,
    OptimisticFTRL,
    OptimisticOMD,
)
from lightning_modules.optimization.optimistic_omd.ball import project_in_norm, project_points
from lightning_modules.optimization.optimistic_omd.optimizers import OnlineOptimizer
from tests.command import ROOT
from tests.numbers import numbers

ALL: list[tuple[type[OnlineOptimizer], dict[str, Any]]] = [
    (OptimisticOMD, {}),
    (OptimisticOMD, {"hint": False}),
    (OptimisticOMD, {"G": None}),
    (OptimisticOMD, {"mode": "strongly_convex", "modulus": 0.5}),
    (OptimisticOMD, {"mode": "exp_concave", "modulus": 0.3}),
    (OptimisticEnsemble, {"T": 60, "L": 0.2}),
    (OnlineGradientDescent, {}),
    (OnlineGradientDescent, {"G": None}),
    (OptimisticFTRL, {"nu": 2.0}),
]


def learner(kind: type[OnlineOptimizer], D: float = 2.0, G: float | None = 10.0, d: int = 3, **options: Any) -> Any:
    return kind([nn.Parameter(torch.zeros(d, dtype=torch.float64))], D=D, G=G, **options)


def end_round(optimizer: Any, gradient: Tensor) -> None:
    start = 0
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = gradient[start : start + parameter.numel()].view_as(parameter).clone()
        start += parameter.numel()
    optimizer.step()


def played(optimizer: Any, gradients: Tensor | Callable[[int, Tensor], Tensor], rounds: int = 60) -> Tensor:
    """Play some rounds; return points `[rounds + 1, d]`, the last of which incurs no loss."""
    points = [optimizer.point]
    for t in range(rounds):
        end_round(optimizer, gradients[t] if isinstance(gradients, Tensor) else gradients(t, points[-1]))
        points.append(optimizer.point)
    return torch.stack(points)


def nearest(x: np.ndarray) -> np.ndarray:
    return x / max(1.0, float(np.linalg.norm(x)))


def written_again(kind: type, g: np.ndarray, options: dict[str, Any], D: float = 2.0, G: float = 10.0) -> np.ndarray:
    """Compute the points from the equations in the package's docstring, in the ball of radius 1."""
    points, rounds, d = [], *g.shape
    hint, anchor, total = np.zeros(d), np.zeros(d), np.zeros(d)
    variation = weighted = greatest = 0.0
    h = (1 + 0.5 * min(1 / (4 * G * D), options.get("modulus", 0)) * G**2 / 2) * np.eye(d)
    for t in range(1, rounds + 1):
        if kind is OptimisticFTRL:
            eta = D**2 / (options["nu"] + weighted)
            x = nearest(-eta / 2 * (total + hint))
            weighted += eta * ((g[t - 1] - hint) ** 2).sum()
        elif kind is OnlineGradientDescent:
            bound = max(greatest, float(np.linalg.norm(g[t - 1]))) if "G" in options else G
            x, eta = anchor, D / (bound * math.sqrt(t))
            anchor = nearest(anchor - eta * g[t - 1])
        elif options.get("mode") == "exp_concave":
            moved = [torch.tensor(anchor - np.linalg.solve(h, gradient)) for gradient in (hint, g[t - 1])]
            x, anchor = (project_in_norm(point, torch.tensor(h), 1.0).numpy() for point in moved)
            h = h + 0.25 * min(1 / (4 * G * D), options["modulus"]) * np.outer(g[t - 1], g[t - 1])
        else:
            bound = greatest if "G" in options else G
            eta = D / math.sqrt(10 * D**2 + 4 * bound**2 + variation)
            if "modulus" in options:
                eta = 2 / (options["modulus"] * t)
            x = nearest(anchor - eta * hint)
            anchor = nearest(anchor - eta * g[t - 1])
        points.append(x)
        variation += ((g[t - 1] - hint) ** 2).sum()
        greatest = max(greatest, float(np.linalg.norm(g[t - 1])))
        total = total + g[t - 1]
        hint = g[t - 1] if options.get("hint", True) else hint
    return np.stack(points)


@pytest.mark.parametrize(("kind", "options"), [each for each in ALL if each[0] is not OptimisticEnsemble])
def test_points_are_those_of_the_equations(kind: Any, options: dict[str, Any]) -> None:
    gradients = 3 * numbers(60, 3) + 2
    points = played(learner(kind, **options), gradients)[:-1]
    np.testing.assert_allclose(points, written_again(kind, gradients.numpy(), options), rtol=0, atol=1e-10)
    assert (points.norm(dim=1) > 1 - 1e-9).any()
    assert points.norm(dim=1).max() <= 1 + 1e-12


def test_without_a_hint_it_is_gradient_descent_of_the_same_steps() -> None:
    optimizer, gradients, x = learner(OptimisticOMD, hint=False), numbers(60, 3), torch.zeros(3, dtype=torch.float64)
    for gradient in gradients:
        eta = optimizer.step_size(optimizer.memory)
        x = project_points(x - eta * gradient, 1.0)
        end_round(optimizer, gradient)
        assert torch.equal(optimizer.point, x)


def test_a_round_costs_what_the_theory_says_at_most_and_steps_shrink() -> None:
    """A round's two projections bound <g_t, x_t - u> for every u; regret bounds are sums of these bounds."""
    optimizer, gradients = learner(OptimisticOMD, G=1.0, delta=1.0), numbers(80, 3)
    everyone, before = project_points(2 * numbers(500, 3, seed=3), 1.0), math.inf
    for t, gradient in enumerate(gradients):
        x, anchor, hint = optimizer.point, optimizer.memory["anchor"], optimizer.memory["hint"]
        eta = optimizer.step_size(optimizer.memory).item()
        assert eta <= before
        assert eta <= 2 / math.sqrt(1 + 4)
        before = eta
        torch.testing.assert_close(x, project_points(anchor - eta * hint, 1.0), rtol=0, atol=1e-15)
        end_round(optimizer, gradient)
        following = optimizer.memory["anchor"]
        moved = (everyone - anchor).square().sum(1) - (everyone - following).square().sum(1)
        stability = (x - following).square().sum() + (x - anchor).square().sum()
        bound = moved / (2 * eta) + (gradient - hint) @ (x - following) - stability / (2 * eta)
        assert ((x - everyone) @ gradient <= bound + 1e-10).all(), t
        assert (x - following).norm() <= eta * (gradient - hint).norm() + 1e-12


@pytest.mark.parametrize("rounds", [100, 1000])
def test_a_constant_loss_is_learned_at_a_cost_that_no_horizon_changes(rounds: int) -> None:
    """Only the first gradient differs from its hint; after the first round, the step size is constant.

    The regret is at most D^2 / (2 eta) plus the loss of the first round.
    """
    optimizer, g = learner(OptimisticOMD, G=1.0, delta=1.0), torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)
    points = played(optimizer, lambda t, x: g, rounds)[:-1]
    assert optimizer.memory["variation"].item() == pytest.approx(1.0)
    eta = optimizer.step_size(optimizer.memory).item()
    assert eta == pytest.approx(2 / math.sqrt(1 + 4 + 1))
    assert (points @ g + 1).sum().item() == pytest.approx(1.0, abs=1e-9)  # at most 2^2 / (2 eta) + 1


@pytest.mark.parametrize("d", [1, 5])
def test_the_inverse_follows_the_matrix(d: int) -> None:
    optimizer, gradients = learner(OptimisticOMD, d=d, mode="exp_concave", modulus=1.0), numbers(60, d)
    played(optimizer, gradients)
    beta = 0.5 * min(1 / (4 * 10 * 2), 1.0)
    h = (1 + beta * 100 / 2) * torch.eye(d, dtype=torch.float64) + beta / 2 * gradients.T @ gradients
    torch.testing.assert_close(optimizer.memory["h"], h, rtol=0, atol=1e-12)
    torch.testing.assert_close(optimizer.memory["inverse"], torch.linalg.inv(h), rtol=0, atol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_regret_on_strongly_convex_losses_grows_with_the_logarithm(noise: float) -> None:
    """Four times as many rounds double a regret of the order of sqrt(T), and raise a logarithm by a quarter."""
    centre, drawn = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64), noise * numbers(1600, 3)

    def regret(rounds: int) -> float:
        optimizer = learner(OptimisticOMD, mode="strongly_convex", modulus=1.0)
        points = played(optimizer, lambda t, x: x - centre + drawn[t], rounds)[:-1]
        return ((points - centre).square().sum(1) / 2).sum().item()

    assert 0 < regret(1600) < 1.5 * regret(400)


@pytest.mark.parametrize("kind", [OptimisticOMD, OptimisticFTRL])
def test_losses_need_to_be_convex_only_in_expectation(kind: Any) -> None:
    """A loss a |x - c|^2 / 2 with a ~ N(1, 4) is concave in a third of the rounds; the expected loss is convex."""
    centre, curvature = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64), 1 + 2 * numbers(6400)
    assert (curvature < 0).double().mean() > 0.25

    def regret(rounds: int) -> float:
        points = played(learner(kind, G=40.0), lambda t, x: curvature[t] * (x - centre), rounds)[:-1]
        return ((points - centre).square().sum(1) / 2).sum().item()

    assert 0 < regret(6400) < 2.2 * regret(1600)


@pytest.mark.parametrize(
    ("kind", "options"), [(OptimisticOMD, {"mode": "strongly_convex", "modulus": 0.5}), (OptimisticFTRL, {"nu": 2.0})]
)
def test_what_no_step_depends_on_need_not_be_stated(kind: Any, options: dict[str, Any]) -> None:
    without, gradients = kind([nn.Parameter(torch.zeros(3, dtype=torch.float64))], D=2.0, **options), numbers(60, 3)
    assert torch.equal(played(without, gradients), played(learner(kind, **options), gradients))
    without.check()
    end_round(without, torch.full((3,), math.nan, dtype=torch.float64))
    with pytest.raises(ValueError, match="the gradient of round 61 has norm nan: it is not finite"):
        without.check()


def test_the_ensemble_weighs_its_learners_by_optimistic_hedge() -> None:
    optimizer, gradients = learner(OptimisticEnsemble, G=3.0, T=60, L=0.2), numbers(60, 3)
    steps = np.array(optimizer.step_sizes)
    np.testing.assert_allclose(steps, 2 / (3 * math.sqrt(60)) * 2.0 ** np.arange(len(steps)))
    assert steps[-2] < 1 / (8 * 0.2) <= steps[-1]
    x = y = np.zeros((len(steps), 3))
    before, weight_hat, error, hint = x, np.full(len(steps), 1 / len(steps)), 1.0, np.zeros(3)
    for t, gradient in enumerate(gradients.numpy()):
        x = np.stack([nearest(each) for each in y - steps[:, None] * hint])
        switching = 2 * 0.2 * ((x - before) ** 2).sum(1)
        rate, expected, loss = min(1 / (8 * 4 * 0.2), error**-0.5), x @ hint + switching, x @ gradient + switching
        weight = weight_hat * np.exp(-rate * expected)
        weight /= weight.sum()
        np.testing.assert_allclose(optimizer.point, weight @ x, rtol=0, atol=1e-12, err_msg=str(t))
        assert optimizer.memory["weight"].sum().item() == pytest.approx(1)
        end_round(optimizer, gradients[t])
        weight_hat = weight_hat * np.exp(-rate * loss)
        weight_hat /= weight_hat.sum()
        y = np.stack([nearest(each) for each in y - steps[:, None] * gradient])
        error += np.abs(loss - expected).max() ** 2
        before, hint = x, gradient


def test_learners_that_are_alike_keep_equal_weights_and_one_alone_is_mirror_descent() -> None:
    gradients = numbers(60, 3)
    alone = learner(OptimisticEnsemble, G=3.0, T=1, L=10.0)
    assert alone.step_sizes == [2 / 3]
    several = learner(OptimisticEnsemble, G=3.0, T=100, L=0.01)
    several.step_sizes = [2 / 3] * len(several.step_sizes)
    one, many = played(alone, gradients), played(several, gradients)
    torch.testing.assert_close(several.memory["weight"], torch.full_like(several.memory["weight"], 1 / 9))
    torch.testing.assert_close(one, many)
    anchor = hint = torch.zeros(3, dtype=torch.float64)
    for t, gradient in enumerate(gradients):
        torch.testing.assert_close(one[t], project_points(anchor - 2 / 3 * hint, 1.0))
        anchor, hint = project_points(anchor - 2 / 3 * gradient, 1.0), gradient


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_it_goes_on_from_its_state(kind: Any, options: dict[str, Any]) -> None:
    gradients, whole = numbers(60, 3), learner(kind, **options)
    played(whole, gradients[:20], 20)
    resumed = learner(kind, **options)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    resumed.param_groups[0]["params"][0].data.copy_(whole.point)
    assert torch.equal(played(whole, gradients[20:], 40), played(resumed, gradients[20:], 40))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("kind", "options"), ALL)
def test_a_host_computes_with_arrays_what_a_device_does_with_tensors(
    kind: Any, options: Any, dtype: torch.dtype
) -> None:
    host, device = (kind([nn.Parameter(torch.zeros(3, dtype=dtype))], D=2.0, **{"G": 10.0, **options}) for _ in "ab")
    for gradient in (3 * numbers(60, 3) + 2).to(dtype):
        end_round(host, gradient)
        with torch.no_grad():
            device._play(device._end_round(gradient.clone(), device.memory))
    assert {name: each.dtype for name, each in host.memory.items()} == dict.fromkeys(device.memory, dtype)
    torch.testing.assert_close(host.point, device.point)
    torch.testing.assert_close(host.memory, device.memory)


@pytest.mark.parametrize(("kind", "options"), [(OptimisticOMD, {}), (ImplicitOMD, {}), (OptimisticFTRL, {})])
def test_an_overridden_step_size_may_be_a_tensor_or_a_number(kind: Any, options: dict[str, Any]) -> None:
    """On the CPU, a tensor met arrays in the products with the gradient."""
    gradients, points = numbers(20, 3), []
    for size in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        own = type("Own", (kind,), {"step_size": lambda self, memory, size=size: size})
        optimizer = learner(own, **options)
        for gradient in gradients:
            optimizer.param_groups[0]["params"][0].grad = gradient.clone()
            optimizer.step(lambda: torch.ones((), dtype=torch.float64))
        points.append(optimizer.point)
    assert torch.equal(*points)


def test_any_training_loop_trains_the_last_layer_of_a_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    frozen = copy.deepcopy(network[0].state_dict())
    optimizer = OptimisticOMD(network[2].parameters(), D=4.0, G=5.0, L=1.0)
    images, labels = numbers(30, 4), torch.arange(30) % 3
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    optimizer.check()
    assert all(torch.equal(network[0].state_dict()[name], value) for name, value in frozen.items())
    assert optimizer.point.norm() <= 2 + 1e-12
    torch.testing.assert_close(optimizer.point, torch.cat([each.flatten() for each in network[2].parameters()]))


@pytest.mark.parametrize("wrong", [10.5, math.nan, math.inf])
def test_a_gradient_beyond_the_stated_bound_is_refused_with_its_round(wrong: float) -> None:
    optimizer = learner(OptimisticOMD)
    for size in (9.9, 10.0, wrong, 11.0):
        end_round(optimizer, torch.tensor([0.0, size, 0.0], dtype=torch.float64))
    with pytest.raises(
        ValueError, match=f"G is 10.0, but the gradient of round 3 has norm {wrong:g}: set G to a bound"
    ):
        optimizer.check()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (OptimisticOMD, {"mode": "exp_concave"}, "modulus must be given for mode exp_concave, got None"),
        (OptimisticOMD, {"modulus": 1.0}, "modulus must be left out for mode convex, got 1.0"),
        (OptimisticOMD, {"mode": "exp_concave", "modulus": 1.0, "G": None}, "G must be given for mode exp_concave"),
    ],
)
def test_what_is_out_of_range_is_named(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner(kind, **options)
    groups = [{"params": [nn.Parameter(torch.zeros(2))]}, {"params": [nn.Parameter(torch.zeros(2))]}]
    with pytest.raises(ValueError, match="needs all parameters in a single group, got 2 groups"):
        OnlineGradientDescent(groups, D=1.0, G=1.0)


@pytest.mark.parametrize(
    "config",
    [path for path in sorted(ROOT.glob("configs/optimistic_omd/*.yaml")) if path.stem != "claim"],
    ids=lambda path: path.stem,
)
def test_the_optimizer_of_a_configuration_accepts_its_arguments(config: Path) -> None:
    """Such arguments may come from the configuration's base, for example a delta that only convex losses use."""
    settings = {key: value for key, value in settings_of(config).items() if key.startswith("model.optimizer.")}
    given = {key.removeprefix("model.optimizer."): value for key, value in settings.items()}
    kind = pkgutil.resolve_name(given.pop("class_path"))
    own = {key: value for key, value in given.items() if key in inspect.signature(kind).parameters}
    assert kind([nn.Parameter(torch.zeros(3, dtype=torch.float64))], **own).radius > 0
