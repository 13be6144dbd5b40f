import timm
import torch
from torch import nn

from lightning_modules.optim.undecayed import Lamb, decay_groups


def test_weights_alone_decay_as_in_timm() -> None:
    with torch.device("meta"):
        network = timm.create_model("deit3_small_patch16_224")
    undecayed, decayed = decay_groups(network.parameters(), 0.05)
    theirs = timm.optim.param_groups_weight_decay(network, 0.05, no_weight_decay_list=network.no_weight_decay())
    for own, expected in zip((undecayed, decayed), theirs, strict=True):
        assert {id(each) for each in own["params"]} == {id(each) for each in expected["params"]}
        assert own["weight_decay"] == expected["weight_decay"]


def test_lamb_shrinks_weights_alone_where_gradients_vanish() -> None:
    layer = nn.Linear(3, 2)
    before = [each.detach().clone() for each in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Lamb(layer.parameters(), lr=0.1, weight_decay=0.5).step()
    assert (layer.weight.abs() < before[0].abs()).all()
    assert torch.equal(layer.bias, before[1])
