import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from lightning_modules.optim.schedules import (
    CosineSchedule,
    ExponentialWarmupCosine,
    HeldThenLinear,
    HyperbolicOverSteps,
    PiecewiseConstant,
    TimmCosine,
    WarmupCosine,
    WarmupLinear,
    cosine_factor,
)


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_the_cosine_begins_below_the_whole_rate_falls_and_ends_above_zero() -> None:
    found = rates(CosineSchedule(sgd(), epochs=20), 20)
    assert found == pytest.approx([0.05 * (1 + math.cos(math.pi * (t + 1) / 21)) for t in range(20)])
    assert 0 < found[-1] < found[0] < 0.1
    assert all(later < earlier for earlier, later in itertools.pairwise(found))


def test_the_cosine_may_begin_after_constant_epochs() -> None:
    factors = [cosine_factor(epoch, 10, 4) for epoch in range(10)]
    assert factors[:4] == [1.0] * 4
    assert factors[4:] == pytest.approx([cosine_factor(epoch, 6, 0) for epoch in range(6)])


@given(warmup=st.integers(0, 20), rest=st.integers(1, 50))
@settings(max_examples=20)
def test_learning_rates_rise_and_fall_along_a_cosine(warmup: int, rest: int) -> None:
    expected = [0.1 * (k + 1) / warmup for k in range(warmup)]
    expected += [0.05 * (1 + math.cos(math.pi * min(k / rest, 1))) for k in range(rest + 3)]
    assert rates(WarmupCosine(sgd(), warmup, warmup + rest), len(expected)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("warmup", "first", "least"), [(3, 1e-4, 1e-3), (0, 0.0, 0.0)])
def test_timms_cosine_is_that_of_timm_with_its_cooldown(warmup: int, first: float, least: float) -> None:
    from timm.scheduler import CosineLRScheduler

    theirs, expected = sgd(), []
    schedule = CosineLRScheduler(theirs, t_initial=10, lr_min=least, warmup_t=warmup, warmup_lr_init=first)
    for epoch in range(13):
        schedule.step(epoch)
        expected.append(theirs.param_groups[0]["lr"])
    assert rates(TimmCosine(sgd(), warmup, 10, first, least), 13) == pytest.approx(expected, rel=1e-12)


def test_the_rate_rises_from_nought_and_falls_in_lines() -> None:
    found = rates(WarmupLinear(sgd(), warmup=2, length=6), 8)
    assert found == pytest.approx([0, 0.05, 0.1, 0.075, 0.05, 0.025, 0, 0])
    assert rates(WarmupLinear(sgd(), warmup=0, length=4), 4) == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_a_rate_is_held_from_epoch_to_epoch() -> None:
    found = rates(PiecewiseConstant(sgd(), {4: 0.1, 2: 0.5}), 6)
    assert found == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.01, 0.01])


def test_a_rate_is_held_for_half_and_falls_in_a_line_until_nine_tenths() -> None:
    found = rates(HeldThenLinear(sgd(), epochs=10, last=0.2), 12)
    assert found == pytest.approx([0.1] * 6 + [0.08, 0.06, 0.04, 0.02, 0.02, 0.02])


def test_a_hyperbola_is_followed_in_steps() -> None:
    found = rates(HyperbolicOverSteps(sgd(), half_life=4, every=3), 7)
    assert found == pytest.approx([0.1] * 3 + [0.1 / 1.75] * 3 + [0.1 / 2.5])


@pytest.mark.parametrize(
    ("schedule", "arguments", "key"),
    [
        (CosineSchedule, (5, 5), "constant_epochs"),
        (WarmupCosine, (5, 5), "warmup"),
        (TimmCosine, (5, 5, 0.0, 0.0), "warmup"),
    ],
)
def test_a_warmup_as_long_as_the_schedule_is_rejected(
    schedule: type[LRScheduler], arguments: tuple[Any, ...], key: str
) -> None:
    with pytest.raises(ValueError, match=f"^{key} must be"):
        schedule(sgd(), *arguments)


def test_an_exponential_warmup_multiplies_the_cosine() -> None:
    expected = [0.1 * (1 - math.exp(-(k + 1) / 3)) * (1 + math.cos(math.pi * min(k / 20, 1))) / 2 for k in range(22)]
    schedule = ExponentialWarmupCosine(sgd(), warmup=3, length=20)
    assert schedule.interval == "step"
    assert rates(schedule, 22) == pytest.approx(expected, abs=1e-12)
