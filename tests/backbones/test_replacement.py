"""Layers are selected by patterns of their names and replaced by layers with the same parameter objects."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from lightning_modules.backbones.replacement import layers_named, replace_layers


class Doubled(nn.Linear):
    """A linear layer whose output is doubled."""

    def __init__(self, name: str, layer: Any) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def vit() -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=2, num_heads=2, num_classes=3
    )


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["head"], ["head"]),
        (["*.fc2", "head"], ["blocks.0.mlp.fc2", "blocks.1.mlp.fc2", "head"]),
        (["blocks.0.*.*"], ["blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]),
        (["*fc?", "blocks.1.mlp.fc1"], [f"blocks.{block}.mlp.fc{layer}" for block in (0, 1) for layer in (1, 2)]),
    ],
)
def test_patterns_choose_in_the_order_of_definition(patterns: list[str], names: list[str]) -> None:
    assert list(layers_named(vit(), patterns, (nn.Linear,), "layers")) == names


def test_parameters_mode_and_names_stay_and_checkpoints_are_exchanged() -> None:
    network, plain = vit().eval(), vit().eval()
    before = dict(network.named_parameters())
    replace_layers(network, layers_named(network, ["head"], (nn.Linear,), "layers"), "layers", Doubled)
    after = dict(network.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert not network.head.training
    plain.load_state_dict(network.state_dict())
    image = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(network(image), 2 * plain(image))
    network.load_state_dict(vit().state_dict())
