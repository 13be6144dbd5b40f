import torch
from torch import nn

from lightning_modules.training.averages import move_average


def test_parameters_move_towards_the_network_and_statistics_stay() -> None:
    average, trained = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double() for _ in range(2))
    trained[1].running_mean.fill_(7.0)
    before = [parameter.detach().clone() for parameter in average.parameters()]
    move_average(average, trained, decay=0.75)
    for old, new, towards in zip(before, average.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), 0.75 * old + 0.25 * towards.detach(), rtol=0, atol=1e-15)
    assert (average[1].running_mean == 0).all()
