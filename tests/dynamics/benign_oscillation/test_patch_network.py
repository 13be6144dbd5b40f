"""Patch networks compared with autograd, one network and one step at a time."""

import pytest
import torch
from torch import Tensor

from datamodules.tables.feature_noise import FeatureNoise
from lightning_modules.dynamics.benign_oscillation.patch_network import (
    PatchPoints,
    component,
    descend_patches,
    drawn_order,
    output,
    points_of,
)
from lightning_modules.dynamics.benign_oscillation.scalar_map import map_parameter, scalar_map

M = 5


def weights(replicas: int = 1, dim: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(replicas, 2, M, dim, generator=generator, dtype=torch.float64) / dim**0.5


def drawn(**arguments: int) -> tuple[Tensor, Tensor, PatchPoints]:
    """Draw several sets of patches; return the patches, the labels, and the components of the patches."""
    table = FeatureNoise(**{"num_points": 6, "num_weak": 2, "dim": 12, "replicas": 4, "seed": 3, **arguments})
    rows = table.training().columns
    return rows["features"], rows["target"], points_of(rows["features"], rows["target"], table.signals)


def f_of_one(weight: Tensor, patches: Tensor) -> Tensor:
    """Compute the network as in the paper, for `[2, m, d]` and `[P, d]`."""
    groups = [sum(torch.relu(w @ x) ** 2 for w in group for x in patches) / M for group in weight]
    return torch.as_tensor(groups[0] - groups[1])


def test_the_output_is_that_of_single_networks() -> None:
    features, _, points = drawn()
    weight = weights(4)
    found = output(weight, features)
    for i, s in ((0, 0), (5, 3), (2, 1)):
        torch.testing.assert_close(found[i, s], f_of_one(weight[s], features[i, s]), rtol=0, atol=1e-12)
    shared = output(weight, features[:, :1])
    torch.testing.assert_close(shared[4, 2], f_of_one(weight[2], features[4, 0]), rtol=0, atol=1e-12)
    of_weak = component(weight, points.signals[1])
    for place, sign in enumerate((1, -1)):
        expected = sign * f_of_one(weight[1], sign * points.signals[1:])
        torch.testing.assert_close(of_weak[place, 1], expected, rtol=0, atol=1e-12)


def test_steps_are_those_of_autograd_on_the_squared_loss_without_a_half() -> None:
    features, target, points = drawn()
    weight, plain = weights(4), weights(4)
    order = torch.randint(6, (40, 4), generator=torch.Generator().manual_seed(1))
    signed = descend_patches(weight, points, order, rate=0.4)
    for step, chosen in enumerate(order):
        for s, i in enumerate(chosen.tolist()):
            w = plain[s].clone().requires_grad_()
            f, y = f_of_one(w, features[i, s]), target[i, s]
            (gradient,) = torch.autograd.grad((f - y) ** 2, w)
            closed = torch.zeros_like(w)
            for j, group in ((1, 0), (-1, 1)):
                h = torch.relu(w[group].detach() @ features[i, s].T)
                closed[group] = 4 * j / M * (f.detach() - y) * h @ features[i, s]
            torch.testing.assert_close(gradient, closed, rtol=0, atol=1e-12)
            torch.testing.assert_close(signed[step, s], (y * f).detach(), rtol=0, atol=1e-10)
            plain[s] -= 0.4 * gradient
    torch.testing.assert_close(weight, plain, rtol=0, atol=1e-10)


def test_networks_do_not_touch_each_other_and_steps_may_be_parted() -> None:
    _, _, points = drawn()
    order = torch.randint(6, (30, 4), generator=torch.Generator().manual_seed(1))
    whole, parted = weights(4), weights(4)
    descend_patches(whole, points, order, 0.4)
    for part in order.split(7):
        descend_patches(parted, points, part, 0.4)
    torch.testing.assert_close(parted, whole, rtol=0, atol=1e-10)
    alone = weights(4)[2:3]
    own = PatchPoints(points.signals, *(each[:, 2:3] for each in points[1:]))
    descend_patches(alone, own, order[:, 2:3], 0.4)
    torch.testing.assert_close(alone, whole[2:3], rtol=0, atol=1e-10)


@pytest.mark.parametrize("y", [1.0, -1.0])
def test_a_step_along_the_strong_feature_is_one_of_the_scalar_map(y: float) -> None:
    table = FeatureNoise(1, 0, 1, 0, dim=8, strong_norm=1.3, weak_norm=1e-3, noise_std=0.0)
    u, v = table.signals
    points = PatchPoints(
        table.signals, torch.ones(1, 1).double(), torch.zeros(1, 1, 8).double(), torch.tensor([[y]]).double()
    )
    weight = torch.zeros(1, 2, M, 8, dtype=torch.float64)
    group = 0 if y > 0 else 1
    weight[0, group] = y * torch.linspace(0.2, 0.9, M).double()[:, None] * (u / (u @ u) + 1e-6 * v / (v @ v))
    before, rate = weight.clone(), 0.7
    a, s = map_parameter(rate, M, 1.3), float(y * output(weight, y * torch.stack([u, v])[None])[0])
    signed = descend_patches(weight, points, torch.zeros(2, 1, dtype=torch.int64), rate)
    assert float(signed[0, 0]) == pytest.approx(s, abs=1e-12)
    assert float(signed[1, 0]) == pytest.approx(float(scalar_map(torch.tensor(s), torch.tensor(a))), abs=1e-6)
    weight.copy_(before)
    descend_patches(weight, points, torch.zeros(1, 1, dtype=torch.int64), rate)
    along_u, along_v = ((weight @ each / (before @ each))[0, group] for each in (u, v))
    torch.testing.assert_close(along_u, torch.full_like(along_u, 1 + a * (1 - s)), rtol=0, atol=1e-10)
    torch.testing.assert_close(along_v, torch.full_like(along_v, 1 + a * (1 - s) * 1e-6 / 1.3**2), rtol=0, atol=1e-10)


def test_filters_that_see_nothing_stay_and_swapped_groups_learn_swapped_labels() -> None:
    features, target, points = drawn(replicas=1, num_weak=0)
    weight = weights(1)
    weight[0, 0, 0] = 0
    weight[0, 0, 0, 0] = -float(target[3, 0])  # opposite to the strong patch, and orthogonal to the others
    before = weight.clone()
    descend_patches(weight, points, torch.full((5, 1), 3), 0.3)
    assert weight[0, 0, 0].equal(before[0, 0, 0])
    assert not weight[0, 1].equal(before[0, 1])
    flipped = before.flip(1)
    mirrored = points._replace(signals=-points.signals, target=-points.target)  # same patches, opposite label
    descend_patches(flipped, mirrored, torch.full((5, 1), 3), 0.3)
    torch.testing.assert_close(flipped.flip(1), weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(output(before.flip(1), features), -output(before, features), rtol=0, atol=1e-12)


def test_four_times_the_window_diverges_and_a_small_rate_comes_from_below() -> None:
    _, _, points = drawn(num_points=16)
    order = torch.randint(16, (100, 4), generator=torch.Generator().manual_seed(1))
    assert not descend_patches(weights(4), points, order, 4 * M)[-1].isfinite().any()
    _, _, points = drawn(replicas=1, num_points=1, num_weak=0)
    signed = descend_patches(weights(1), points, torch.zeros(500, 1, dtype=torch.int64), 0.05 * M / 4)
    assert float(signed[0]) < 0.9
    assert float(signed.max()) <= 1 + 1e-3
    assert float(signed[-1]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("steps", [5, 16, 37])
def test_each_pass_visits_all_points_in_an_order_of_its_own(steps: int) -> None:
    parts = [drawn_order(3, torch.tensor(start), steps, 16, 4) for start in range(0, 64, steps)]
    passes = torch.cat(parts)[:64].view(4, 16, 4)
    assert passes.sort(dim=1).values.equal(torch.arange(16)[:, None].expand(4, 16, 4))
    assert len({tuple(each.tolist()) for each in passes.permute(0, 2, 1).flatten(0, 1)}) == 4 * 4
