"""Attacks equal their formulas, and the line search a plain one; the direction that Mimic follows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_modules.optimization.monna.aggregation import Average, NearestNeighborAveraging, Rule, TrimmedMean
from lightning_modules.optimization.monna.byzantine import (
    ALittleIsEnough,
    FallOfEmpires,
    LabelFlip,
    Mimic,
    Round,
    SignFlip,
    line_maximum,
    most_harmful,
)
from tests.numbers import numbers

NNA = NearestNeighborAveraging()


def situation(honest: Tensor, rule: Rule = NNA, number: int = 0, poisoned: Tensor | None = None) -> Round:
    return Round(honest, 2, rule, number, poisoned)


def plain_search(function: Callable[[float], float], evaluations: int = 16) -> float:
    """Run expansion while the value rises, and then contraction, as described in the paper."""
    best, highest, left, step = 0.0, function(0.0), evaluations - 1, 1.0
    x = best
    while left:
        x, left = best + step, left - 1
        if (value := function(x)) <= highest:
            step *= 0.8
            break
        best, highest, step = x, value, 2 * step
    while left:
        if x < best:
            x += step
        else:
            new = x - step
            while new < 0:
                new = (new + x) / 2
            x = new
        left -= 1
        if (value := function(x)) > highest:
            best, highest = x, value
        step *= 0.8
    return best


@pytest.mark.parametrize("peak", [0.0, 0.03, 0.2, 0.7, 1.0, 1.9, 3.0, 5.5, 40.0, 1e9])
@pytest.mark.parametrize("skew", [1.0, 4.0])
def test_the_line_search_is_a_plain_one_that_waits_for_nothing(peak: float, skew: float) -> None:
    def plain(x: float) -> float:
        return -abs(x - peak) * (skew if x > peak else 1.0)

    def on_device(x: Tensor) -> Tensor:
        return torch.where(x > peak, -skew * (x - peak), x - peak)

    zero, found = torch.zeros((), dtype=torch.float64), pytest.approx(plain_search(plain), rel=1e-12, abs=1e-15)
    assert float(line_maximum(on_device, zero)) == found
    assert line_maximum(plain, 0.0) == found
    assert line_maximum(on_device, zero.to("meta")).device.type == "meta"


@pytest.mark.parametrize("rule", [NNA, TrimmedMean(), Average()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("attack", [ALittleIsEnough(), FallOfEmpires()], ids=lambda attack: type(attack).__name__)
def test_the_factor_is_what_the_search_finds_for_the_rule(rule: Rule, attack: ALittleIsEnough | FallOfEmpires) -> None:
    honest = 1 + numbers(9, 4)
    mean, answer = honest.mean(dim=0), rule.answer(honest, 2)
    direction = honest.std(dim=0) if isinstance(attack, ALittleIsEnough) else -mean
    eta = plain_search(lambda x: float(((answer(mean + x * direction) - mean) ** 2).sum()))
    assert eta > 0
    torch.testing.assert_close(attack(situation(honest, rule)), mean + eta * direction, rtol=1e-10, atol=1e-12)


def test_attacks_are_their_formulas() -> None:
    honest = numbers(9, 4)
    mean = honest.mean(dim=0)
    assert SignFlip()(situation(honest)).equal(-mean)
    torch.testing.assert_close(mean + 2 * -mean, SignFlip()(situation(honest)))  # FOE with a factor of 2
    assert most_harmful(situation(honest), torch.zeros(4, dtype=torch.float64)).equal(mean)
    poisoned = numbers(4, seed=1)
    assert LabelFlip()(situation(honest, poisoned=poisoned)).equal(poisoned)
    assert LabelFlip.flips_labels
    assert not SignFlip.flips_labels
    assert Mimic()(situation(honest, number=500)).equal(honest[0])


def test_against_averaging_the_factor_doubles_as_long_as_there_are_evaluations() -> None:
    """The damage grows without bound, so the search never contracts: after 15 steps, the factor is 1 + 2 + 4 + ..."""
    honest = 1 + numbers(9, 4)
    sent = FallOfEmpires()(situation(honest, Average()))
    torch.testing.assert_close(sent, honest.mean(dim=0) * (1 - (2.0**15 - 1)))


def test_mimic_follows_the_direction_of_most_variance_and_copies_who_is_farthest_along_it() -> None:
    torch.manual_seed(0)
    top, attack = torch.nn.functional.normalize(numbers(6, seed=3), dim=0), Mimic(learning_rounds=100).double()
    attack.allocate(6)
    attack.double()
    for number in range(100):
        models = numbers(12, 6, seed=number) + 5 * numbers(12, 1, seed=1000 + number) * top
        assert attack.learns(number)
        assert attack(situation(models, number=number)).equal(models[0])
        attack.learn(models, number)
    assert not attack.learns(100)
    assert float((attack.direction @ top).abs()) > 0.95
    assert float(attack.direction.norm()) == pytest.approx(1)
    last = numbers(5, 6, seed=7)
    last[3] += 20 * top
    assert attack(situation(last, number=100)).equal(last[3])
    assert set(attack.state_dict()) == {"mean", "direction"}


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 2.5, 1e3])
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_the_harm_along_a_direction_is_that_of_the_vector_that_is_sent(eta: float, spread: float) -> None:
    honest = 1 + spread * numbers(9, 40)
    mean, direction = honest.mean(dim=0), numbers(40, seed=1) * spread
    harm = NNA.harm_along(honest, 3, direction)(eta)
    sent = torch.cat([honest, (mean + eta * direction)[None]])
    heard = torch.tensor([[*range(9), 9, 9, 9]] * 9)
    expected = (NNA(honest, sent, heard, 3).mean(dim=0) - mean).square().sum()
    assert harm == pytest.approx(float(expected), rel=1e-9, abs=1e-14 * spread**2)
