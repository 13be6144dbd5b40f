import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn

from lightning_modules.optim.optimizers import (
    adam,
    adamw,
    constant,
    optimizer_config,
    sgd,
    temporarily_frozen,
    trainable_parameters,
    with_schedule,
)
from lightning_modules.optim.schedules import (
    CosineOverSteps,
    PolynomialOverSteps,
    StepOverSteps,
    WarmupConstant,
    WarmupCosine,
)


@pytest.mark.parametrize("optimizer", [sgd, adam, adamw])
def test_the_learning_rate_is_constant_from_the_first_epoch_on(optimizer) -> None:
    optimizer_config = optimizer([nn.Parameter(torch.ones(1))])
    schedule = constant(optimizer_config)
    rates = []
    for _ in range(8):
        rates.append(optimizer_config.param_groups[0]["lr"])
        optimizer_config.step()
        schedule.step()
    assert rates == [0.001] * 8


def test_what_is_held_fixed_is_free_again_after_an_error() -> None:
    layer, frozen = nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"), temporarily_frozen(layer, frozen):
        layer(torch.ones(1)).backward()
    assert layer.weight.requires_grad
    assert not frozen.weight.requires_grad


def test_what_is_frozen_is_not_trained() -> None:
    frozen, head = nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 2)
    head.bias.requires_grad_(False)
    assert [id(each) for each in trainable_parameters(frozen, head)] == [id(head.weight)]
    [optimizer], _ = optimizer_config(sgd, constant, trainable_parameters(frozen, head))
    assert [id(each) for each in optimizer.param_groups[0]["params"]] == [id(head.weight)]


@pytest.mark.parametrize(
    ("schedule", "interval"),
    [
        (constant, "epoch"),
        (lambda optimizer: CosineOverSteps(optimizer, T_max=4), "step"),
        (lambda optimizer: PolynomialOverSteps(optimizer, total_iters=4), "step"),
        (lambda optimizer: StepOverSteps(optimizer, step_size=4), "step"),
        (lambda optimizer: WarmupConstant(optimizer, 4), "step"),
        (lambda optimizer: WarmupCosine(optimizer, 1, 4), "epoch"),
        (lambda optimizer: WarmupCosine(optimizer, 1, 4, interval="step"), "step"),
    ],
)
def test_a_schedule_says_itself_when_it_is_stepped(schedule, interval: str) -> None:
    optimizer = sgd([nn.Parameter(torch.ones(1))])
    [same], [found] = with_schedule(optimizer, schedule)
    assert same is optimizer
    assert found["scheduler"].optimizer is optimizer
    assert found["interval"] == interval


def test_a_schedule_that_waits_for_a_plateau_says_of_which_metric() -> None:
    optimizer = sgd([nn.Parameter(torch.ones(1))])
    _, [found] = with_schedule(optimizer, lambda optimizer: ReduceLROnPlateau(optimizer, monitor="val/nll"))
    assert found["monitor"] == "val/nll"


def test_a_warmup_begins_at_zero_and_stays_at_its_end() -> None:
    optimizer = sgd([nn.Parameter(torch.ones(1))])
    schedule, rates = WarmupConstant(optimizer, 4), []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.0, 0.00025, 0.0005, 0.00075, 0.001, 0.001, 0.001])
