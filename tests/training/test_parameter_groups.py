import pytest
import torch
from torch import nn

from lightning_modules.training.parameter_groups import learning_rate_groups, scale_learning_rates


def test_new_layers_and_biases_learn_faster_and_norms_do_not() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 3, 1)))
    optimizer = torch.optim.SGD(learning_rate_groups(network, ["2"]), lr=0.5, weight_decay=0.1)
    scale_learning_rates(optimizer)
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    first, last = network[0], network[2][0]
    assert found == {first.weight: (0.5, 0.1), first.bias: (1, 0), last.weight: (5, 0.1), last.bias: (10, 0)}
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == {"1.weight", "1.bias"}
    with pytest.raises(ValueError, match=r"new_layers.*'head'"):
        learning_rate_groups(network, ["head"])


class Tokens(nn.Module):
    """Has parameters of its own, attention, whose input weights are no layer's, and a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)
        self.shared = self.head
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_every_parameter_that_is_trained_is_in_one_group() -> None:
    network = Tokens()
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = {
        group["lr_factor"]: [names[p] for p in group["params"]] for group in learning_rate_groups(network, ["head"])
    }
    assert found == {
        1: ["position", "attention.in_proj_weight", "attention.out_proj.weight"],
        2: ["attention.in_proj_bias", "attention.out_proj.bias"],
        10: ["head.weight"],
        20: ["head.bias"],
    }
    in_a_group = {name for group in found.values() for name in group}
    assert {name for name, p in network.named_parameters() if p.requires_grad} == in_a_group
