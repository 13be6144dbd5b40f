"""Oscillations in known sequences, bit-exact checks of annealed weights, and a regression that annealing stabilises."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.efficiency.ofq.conversion import QuantizedLinear, QuantizedRows
from lightning_modules.efficiency.ofq.oscillation import (
    MOMENTUM,
    PLACE,
    Annealing,
    OscillationTracker,
    latent_weights,
    share_of,
)
from lightning_modules.efficiency.ofq.quantizers import StatsQ, near_threshold, statsq


@pytest.mark.parametrize(
    ("sequence", "steps"),
    [
        ([0, 1, 0, 1], [3, 4]),
        ([0, 1, 2, 3], []),
        ([0, 1, 1, 0, 0, 1], [4, 6]),
        ([-2, 1, -2], [3]),
        ([1, 1, 1], []),
    ],
)
def test_a_change_back_is_an_oscillation_however_long_after(sequence: list[int], steps: list[int]) -> None:
    tracker = OscillationTracker((1,))
    tracker.start(torch.tensor([sequence[0]]))
    found = [bool(tracker.update(torch.tensor([value]))) for value in sequence[1:]]
    assert [step for step, oscillated in enumerate(found, start=2) if oscillated] == steps
    frequency = sum(MOMENTUM * (1 - MOMENTUM) ** (len(sequence) - step) for step in steps)
    assert tracker.frequency.item() == pytest.approx(frequency, rel=1e-5)


def rows(out: int = 6, inside: int = 8, start: int = 0) -> QuantizedRows:
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(inside, out).double(), StatsQ(2), nn.Identity())
    return QuantizedRows("fc1", layer, start, 2)


@pytest.mark.parametrize(("boundary", "start"), [(0.3, 0), (0.3, 4), (1.0, 0), (0.0, 0)])
def test_frozen_weights_keep_every_bit_under_momentum_and_decay(boundary: float, start: int) -> None:
    own = rows(start=start)
    weight = own.layer.weight
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
    annealing = Annealing([own], boundary)
    for step in range(3):
        weight.grad = torch.randn_like(weight)
        if step == 0:  # momentum of all entries
            optimizer.step()
            continue
        before = weight.detach().clone()
        trains = torch.ones_like(weight, dtype=torch.bool)
        trains[start:] = near_threshold(own.positions, 2, boundary)
        gradient = weight.grad.clone()
        assert annealing.mask() == pytest.approx(float(trains[start:].double().mean()))
        assert weight.grad.equal(gradient * trains)
        optimizer.step()
        annealing.restore()
        assert (weight.detach() == before).equal(~trains)
    assert float(trains[start:].double().mean()) == {0.3: pytest.approx(0.3, abs=0.3), 1.0: 1.0, 0.0: 0.0}[boundary]


def regression(bits: int, annealed: bool, seeds: int = 2, steps: int = 1500) -> tuple[float, float, float]:
    """Fit y = W* x with a quantised W by SGD, and observe the last 500 steps; one weight stacks the rows of all seeds.

    Returns:
        Share of oscillating weights, standard deviation over time of the rows' scales, and mean squared error of W.
    """
    outputs, inputs = 16, 64
    random = torch.Generator().manual_seed(0)
    target = torch.randn(seeds, outputs, inputs, generator=random) / math.sqrt(inputs)
    layer = QuantizedLinear(nn.Linear(inputs, seeds * outputs, bias=False), StatsQ(bits), nn.Identity())
    with torch.no_grad():
        layer.weight.copy_(torch.randn(seeds * outputs, inputs, generator=random) / math.sqrt(inputs))
    own = QuantizedRows("weight", layer, 0, bits)
    optimizer = torch.optim.SGD([layer.weight], lr=0.01, momentum=0.9)
    annealing, tracker = Annealing([own], 0.05), OscillationTracker(layer.weight.shape)
    tracker.start(own.integers)
    turned, scales = torch.zeros_like(layer.weight, dtype=torch.bool), []
    for step in range(steps):
        x = torch.randn(seeds, inputs, 32, generator=random)
        quantised = statsq(layer.weight, bits).view(seeds, outputs, inputs)
        optimizer.zero_grad()
        (F.mse_loss(quantised @ x, target @ x) * seeds).backward()
        if anneals := annealed and step >= steps // 2:
            annealing.mask()
        optimizer.step()
        if anneals:
            annealing.restore()
        oscillated = tracker.update(own.integers)
        if step >= steps - 500:
            turned |= oscillated
            scales.append(layer.weight.detach().abs().mean(dim=1))
    error = (statsq(layer.weight, bits).view_as(target) - target).square().mean()
    return float(share_of([turned])), float(torch.stack(scales).std(dim=0).mean()), float(error)


@pytest.mark.parametrize(
    "bits", [2, pytest.param(3, marks=pytest.mark.nightly), pytest.param(4, marks=pytest.mark.nightly)]
)
def test_annealing_calms_the_weights_of_a_regression(bits: int) -> None:
    """Half of the reduction that was measured earlier is required.

    Annealing reduced the share of oscillating weights from .857 to .706 for 2 bits, from .874 to .671 for 3 bits, and
    from .868 to .554 for 4 bits.
    """
    (plain, moving, error), (calm, still, other) = regression(bits, False), regression(bits, True)
    assert calm <= plain - {2: 0.075, 3: 0.1, 4: 0.15}[bits]
    assert still < moving / 10
    assert other < 1.2 * error


def test_latent_weights_are_counted_between_their_thresholds() -> None:
    own = rows(200, 50)
    with torch.no_grad():
        own.layer.weight.normal_()
    marks = near_threshold(own.positions, 2, 0.05)
    table = latent_weights([own], lambda number: marks, 2)
    lines: list[tuple[float, str, float]] = list(zip(*table.columns.values(), strict=True))
    assert sum(density for _, kind, density in lines if kind == "all weights") * 0.1 == pytest.approx(1, abs=1e-6)
    near = {place for place, kind, density in lines if kind == "oscillating weights" and density}
    assert near == {place for place, _, _ in lines if abs(place) < 1.1 and abs(place - round(place)) < 0.06}
    assert set(latent_weights([own], None, 2).columns["weights"]) == {"all weights"}
    assert set(table.columns) == {PLACE, "weights", "density"}
