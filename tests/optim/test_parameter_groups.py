import pytest
import torch
from torch import nn

from lightning_modules.networks.time_conditioned_vit import TimeConditionedViT
from lightning_modules.optim.parameter_groups import (
    layer_of,
    learning_rate_groups,
    optimizer_with_layer_decay,
    scale_learning_rates,
)


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
    """Has a parameter of its own, a layer with two names, and attention whose input weights belong to no layer."""

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


def test_layers_of_a_transformer_and_their_learning_rates() -> None:
    encoder = TimeConditionedViT(8, 4, width=12, depth=2, num_heads=2, in_channels=1)
    head = nn.Linear(12, 3)
    names = dict(encoder.named_parameters())
    layers = {name: layer_of(name, 2) for name in names}
    assert {layers[name] for name in ("cls_token", "pos_embed", "patch_embed.weight", "patch_embed.bias")} == {0}
    assert {layer for name, layer in layers.items() if name.startswith("blocks.")} == {1, 2}
    assert layers["blocks.0.attn.qkv.weight"] == 1
    assert layers["norm.weight"] == 3
    encoder.patch_embed.requires_grad_(False)
    optimizer = optimizer_with_layer_decay(lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3), encoder, head, 0.5)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in names.items():
        if name.startswith("patch_embed"):
            assert id(parameter) not in found
        else:
            decay = 0.3 if parameter.ndim > 1 else 0.0
            assert found.pop(id(parameter)) == (pytest.approx(0.1 * 0.5 ** (3 - layers[name])), decay)
    assert sorted(found.values()) == [(0.1, 0.0), (0.1, 0.3)]  # the head's
