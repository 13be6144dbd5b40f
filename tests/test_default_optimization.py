import pytest
import torch

from lightning_modules.training.optimizers import adam, adamw, constant, sgd


@pytest.mark.parametrize("optimizer", [sgd, adam, adamw])
def test_the_learning_rate_is_constant_from_the_first_epoch_on(optimizer) -> None:
    built = optimizer([torch.nn.Parameter(torch.ones(1))])
    schedule = constant(built)
    rates = []
    for _ in range(8):
        rates.append(built.param_groups[0]["lr"])
        built.step()
        schedule.step()
    assert rates == [0.001] * 8
