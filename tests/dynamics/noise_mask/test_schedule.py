"""The learning rates of both stages, epoch by epoch."""

import math

import pytest
import torch

from lightning_modules.dynamics.noise_mask.schedule import MaskThenTuning


def test_rates_of_the_paper() -> None:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.01)]
    schedule = MaskThenTuning(torch.optim.SGD(groups), mask_epochs=90, tuning_rate=0.001, warmup_epochs=7)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr())
        schedule.optimizer.step()
        schedule.step()
    classifier, policy = map(list, zip(*rates, strict=True))
    for epoch, expected in ((0, 0.1), (29, 0.1), (30, 0.01), (89, 0.001), (90, 1e-5), (97, 0.001), (99, 0.001)):
        assert classifier[epoch] == pytest.approx(expected), epoch
    assert classifier[93] == pytest.approx(0.001 * (0.01 + 0.99 * 3 / 7))
    for epoch in (0, 17, 89):
        assert policy[epoch] == pytest.approx(0.01 * (1 + math.cos(math.pi * epoch / 90)) / 2)
    assert policy[90:] == [0.0] * 10


def test_a_classifier_alone_has_a_group_alone_and_steps_down_in_tuning() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = MaskThenTuning(optimizer, 1, 0.2, step=2, gamma=0.5)
    rates = []
    for _ in range(5):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 0.2, 0.2, 0.1, 0.1])
