"""SGD iterations compared with a plain loop, the hinge with its formula, and batches with their distribution."""

import copy
import math
from itertools import combinations

import pytest
import torch
from torch import nn

from lightning_modules.dynamics.sgd_noise.descent import (
    DescentPoints,
    Loss,
    ahead_of,
    descend,
    diffuse,
    drawn_batches,
    drawn_noise,
    fitted_mask,
    hinge,
    loss_slope,
    margin_loss,
)
from lightning_modules.dynamics.sgd_noise.observables import outputs
from lightning_modules.networks.ntk_mlp import NTKMLP
from tests.numbers import numbers

SEED = 3


def points_of(network: nn.Module, count: int = 40, dim: int = 6) -> DescentPoints:
    features = numbers(count, dim, seed=1)
    return DescentPoints(features, features[:, 0].sign(), outputs(network, features))


def network_of(*hidden: int, std: float = 1.0) -> NTKMLP:
    torch.manual_seed(0)
    return NTKMLP(6, list(hidden), "gelu", initial_std=std).double()


@pytest.mark.parametrize("alpha", [0.25, 1.0, 64.0])
def test_the_hinge_is_phi_of_alpha_times_the_margin_over_alpha(alpha: float) -> None:
    output, sign = numbers(50), numbers(50, seed=2).sign()
    output.requires_grad_()
    loss = hinge(sign * output, alpha)
    torch.testing.assert_close(loss, torch.relu(1 - alpha * output * sign) / alpha, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss, (1 / alpha - output * sign).clamp(min=0), rtol=0, atol=1e-12)
    (exact,) = torch.autograd.grad(loss.sum(), output)
    torch.testing.assert_close(exact, -sign * (alpha * output * sign < 1), rtol=0, atol=0)
    torch.testing.assert_close(loss_slope(sign * output.detach(), sign, alpha), exact, rtol=0, atol=0)


def test_a_margin_of_zero_is_the_perceptron_rule_and_nan_is_not_fitted() -> None:
    signed = torch.tensor([-2.0, -1e-300, 0.0, 1e-300, math.nan], dtype=torch.float64, requires_grad=True)
    assert fitted_mask(signed, math.inf).tolist() == [False, False, False, True, False]
    (exact,) = torch.autograd.grad(hinge(signed, math.inf)[:4].sum(), signed)
    assert exact.tolist() == [-1, -1, -1, 0, 0]
    assert loss_slope(signed, torch.ones_like(signed), math.inf).tolist() == [-1, -1, -1, 0, -1]
    assert hinge(signed, math.inf).isnan().tolist() == [False] * 4 + [True]
    steep = hinge(signed[:3], 2.0**80)
    torch.testing.assert_close(steep, hinge(signed[:3], math.inf), rtol=0, atol=1e-24)


def test_batches_are_uniform_subsets_that_follow_from_their_iteration() -> None:
    batches = drawn_batches(SEED, torch.arange(60_000), 6, 3)
    subset = batches.sort(dim=1).values
    assert bool((subset[:, 1:] > subset[:, :-1]).all())
    counts = [int((subset == torch.tensor(each)).all(dim=1).sum()) for each in combinations(range(6), 3)]
    assert sum(counts) == 60_000
    assert sum((count - 3000) ** 2 / 3000 for count in counts) < 50.8  # 99.99 % quantile, chi-square, 19 degrees
    assert drawn_batches(SEED, torch.arange(17, 20), 6, 3).equal(batches[17:20])
    assert not drawn_batches(SEED + 1, torch.arange(20), 6, 3).equal(batches[:20])
    assert drawn_batches(SEED, torch.arange(5), 4, 4).sort(dim=1).values.equal(torch.arange(4).expand(5, 4))


def test_the_covariance_of_a_batchs_mean_is_that_of_sampling_without_replacement() -> None:
    P, B = 12, 5
    gradients = numbers(P, 3)
    mean = gradients[drawn_batches(SEED, torch.arange(100_000), P, B)].mean(dim=1)
    expected = (P - B) / (P - 1) / B * torch.cov(gradients.T, correction=0)
    torch.testing.assert_close(torch.cov(mean.T), expected, rtol=0.05, atol=0.05 * float(expected.diagonal().min()))


def one_at_a_time(network: nn.Module, points: DescentPoints, count: int, B: int, rate: float, alpha: float) -> int:
    """Iterate torch's optimizer on the paper's loss, and return the last iteration that changed the weights."""
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    changed = 0
    for iteration in range(count):
        [batch] = drawn_batches(SEED, torch.tensor([iteration]), len(points.sign), B)
        output = network(points.features[batch]).flatten() - points.initial[batch]
        loss = (torch.relu(1 - alpha * output * points.sign[batch]) / alpha).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        changed = iteration + 1 if loss.item() > 0 else changed
    return changed


def run(network: nn.Module, points: DescentPoints, until: int, ahead: int, steps: int, **options: float) -> int:
    """Take training steps until at least iteration `until`, and return the last iteration that changed the weights."""
    passed = changed = 0
    B = int(options.pop("B"))
    while passed < until:
        batches = drawn_batches(SEED, passed + torch.arange(steps * ahead), len(points.sign), B)
        course = descend(network, points, batches, steps, ahead, **options)
        changed = passed + int(course.changed) if course.changed else changed
        passed += int(course.passed)
        assert steps <= course.passed <= steps * ahead
    return changed


@pytest.mark.parametrize(
    ("hidden", "options"),
    [((5, 4), {"B": 7, "alpha": 4.0, "rate": 4.0}), ((), {"B": 1, "alpha": 4.0, "rate": 1.0})],
)
def test_iterations_are_those_of_one_at_a_time(hidden: tuple[int, ...], options: dict[str, float]) -> None:
    plain = network_of(*hidden)
    points = points_of(plain)
    start = copy.deepcopy(plain)
    changed = one_at_a_time(plain, points, 1500, **options)  # type: ignore[arg-type]
    assert 50 < changed < 1400, "the test wants training that ends"
    for ahead, steps in ((1, 1500), (1, 150), (8, 40), (32, 7)):
        network = copy.deepcopy(start)
        assert run(network, points, 1500, ahead, steps, **options) == changed
        for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_where_all_points_are_fitted_nothing_changes() -> None:
    network = network_of()
    points = points_of(network)
    run(network, points, 1000, 1, 500, B=1, alpha=4.0, rate=1.0)
    weight = next(network.parameters()).detach().clone()
    signed = points.sign * (outputs(network, points.features) - points.initial)
    assert bool(fitted_mask(signed, 4.0).all())
    assert run(network, points, 400, 1, 200, B=3, alpha=4.0, rate=1.0) == 0
    assert next(network.parameters()).equal(weight)


def test_with_a_margin_of_zero_everything_is_linear_in_the_temperature() -> None:
    found = {}
    for temperature in (1.0, 4.0, 0.3):
        network = network_of(std=0.0)
        points = points_of(network)
        found[temperature] = run(network, points, 600, 4, 50, B=2, alpha=math.inf, rate=2 * temperature), network
    steps, network = found[1.0]
    assert steps > 5
    for temperature, (other_steps, other) in found.items():
        assert other_steps == steps  # so t* = dt steps is proportional to T
        exact = math.log2(temperature).is_integer()
        ours, theirs = (next(each.parameters()).detach() for each in (other, network))
        torch.testing.assert_close(ours, temperature * theirs, rtol=0 if exact else 1e-12, atol=0)


def test_the_first_step_does_not_depend_on_alpha() -> None:
    changes = []
    for alpha in (1e-3, 1.0, 1e6):
        network = network_of(5)
        points, before = points_of(network), copy.deepcopy(network)
        batches = drawn_batches(SEED, torch.zeros(1, dtype=torch.int64), 40, 8)
        course = descend(network, points, batches, 1, 1, 1.0, alpha)
        assert float(course.loss) * alpha == pytest.approx(1, abs=1e-9)  # F = 0 up to rounding
        changes.append([now - then for now, then in zip(network.parameters(), before.parameters(), strict=True)])
    for change in changes[1:]:
        for ours, theirs in zip(change, changes[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)


def test_the_fewer_points_are_left_the_more_batches_are_looked_at_together() -> None:
    assert [ahead_of(left, 4096, 4, 10) for left in (4096, 512, 300, 100, 2, 0)] == [1, 2, 2, 8, 512, 1024]
    assert ahead_of(1, 10**6, 1, 10) == 1024
    assert ahead_of(1, 16384, 16, 500) == 128  # 500 x 128 x 16 positions are drawn
    assert ahead_of(1, 10**6, 64, 10**6) == 1


@pytest.mark.parametrize("loss", ["quadratic_hinge", "soft_hinge"])
def test_other_hinges_are_their_formulas_with_their_slopes(loss: Loss) -> None:
    signed = torch.tensor([-1.5, 0.0, 0.2, 0.25, 0.3], dtype=torch.float64, requires_grad=True)
    found = margin_loss(signed, 4.0, loss)
    r = [7.0, 1.0, 0.2]
    expected = [x**2 / 4 if loss == "quadratic_hinge" else x * math.exp(-1 / (2 * x)) / 4 for x in r]
    assert found.tolist() == pytest.approx([*expected, 0, 0], rel=1e-12)
    (exact,) = torch.autograd.grad(found.sum(), signed)
    sign = torch.tensor([1.0, -1, 1, -1, 1], dtype=torch.float64)
    torch.testing.assert_close(loss_slope(signed.detach(), sign, 4.0, loss), sign * exact)
    below = torch.tensor([math.nextafter(0.1, 0)], dtype=torch.float64)  # 1 - alpha y F rounds to zero
    assert loss_slope(below, sign[:1], 10.0, loss).abs().item() < 1e-12


@pytest.mark.parametrize("loss", ["quadratic_hinge", "soft_hinge"])
def test_iterations_descend_the_chosen_loss(loss: Loss) -> None:
    network = network_of(5)
    points, plain = points_of(network), copy.deepcopy(network)
    batches = drawn_batches(SEED, torch.arange(3), 40, 8)
    descend(network, points, batches, 3, 1, 0.5, 0.5, loss)
    for batch in batches:
        signed = points.sign[batch] * (plain(points.features[batch]).flatten() - points.initial[batch])
        gradients = torch.autograd.grad(margin_loss(signed, 0.5, loss).mean(), [*plain.parameters()])
        with torch.no_grad():
            for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_the_diffusion_has_the_drift_of_gradient_descent_and_noise_in_the_span_of_the_features() -> None:
    start = network_of()
    points, B, rate = points_of(start), 8, 0.7
    J = points.features / math.sqrt(6)  # gradients of f
    moved = next(start.parameters()).detach().clone().flatten()
    xi = drawn_noise(SEED, torch.arange(20), points)
    assert xi.dtype == torch.float64
    assert drawn_noise(SEED, torch.arange(7, 9), points).equal(xi[7:9])
    slopes = -points.sign  # nothing is fitted at the start
    drift, s = J.T @ slopes / 40, math.sqrt(40 * (1 / B - 1 / 40))
    changes = []
    for each in xi:
        network = copy.deepcopy(start)
        course = diffuse(network, points, each[None], B, rate, 0.5)
        assert (int(course.passed), int(course.changed), float(course.loss)) == (1, 1, pytest.approx(2.0))
        changes.append(next(network.parameters()).detach().flatten() - moved)
    expected = -rate * drift + rate * s * xi @ J / 40
    torch.testing.assert_close(torch.stack(changes), expected, rtol=1e-10, atol=1e-12)
    network = copy.deepcopy(start)
    diffuse(network, points, xi[:1], 40, rate, 0.5)  # a full batch has no noise
    torch.testing.assert_close(next(network.parameters()).detach().flatten() - moved, -rate * drift)


def test_where_all_points_are_fitted_the_diffusion_stops() -> None:
    network = network_of(std=0.0)
    points = points_of(network)
    courses = [
        diffuse(network, points, drawn_noise(SEED, torch.arange(first, first + 50), points), 32, 0.5, 16.0)
        for first in range(0, 1000, 50)
    ]
    assert int(courses[0].changed) > 0
    assert (int(courses[-1].passed), int(courses[-1].changed), float(courses[-1].loss)) == (50, 0, 0)
