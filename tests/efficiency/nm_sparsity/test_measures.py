"""Costs equal those counted by hand and by torch; densities during an epoch; Adam's second moment."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.efficiency.nm_sparsity.flow import Flow, Pattern, sparsify
from lightning_modules.efficiency.nm_sparsity.measures import ForwardCost, densities, forward_cost, mean_second_moment
from tests.efficiency.wta_crs.networks import vit


def sparse_vit(flow: Flow, own: Any = None) -> Any:
    network = vit()
    sparsify(network, Pattern(1, 4, own=own or {}), ["*.fc1", "*.fc2"], flow)
    return network


def test_a_forward_pass_costs_what_its_products_do_however_attention_is_computed() -> None:
    flow = Flow("ste")
    fused, in_parts = sparse_vit(flow), sparse_vit(flow)
    for block in in_parts.blocks:
        block.attn.fused_attn = False
    image = torch.rand(3, 1, 8, 8)
    mode = fused.blocks[0].mlp.eval().training
    costs = [forward_cost(network, image) for network in (fused, in_parts)]
    tokens, width = 17, 16
    layer = 2 * tokens * width * 4 * width
    assert costs[0].layers == {f"blocks.{block}.mlp.fc{i}": layer for block in (0, 1) for i in (1, 2)}
    block = 4 * 2 * tokens * width**2 + 2 * layer + 2 * 2 * tokens**2 * width
    assert costs[0].network == costs[1].network == 2 * block + 2 * 16 * width * 4 + 2 * width * 3
    with FlopCounterMode(display=False) as counter:
        in_parts(image[:1])
    assert costs[1].network == counter.get_total_flops()
    assert fused.training
    assert fused.blocks[0].mlp.training == mode  # each is in its original mode


def test_a_sparse_step_costs_a_kept_weights_part_of_each_product() -> None:
    cost = ForwardCost(network=100.0, layers={"a": 40.0, "b": 20.0})
    assert cost.training({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}) == 300
    assert cost.training({"a": 0.25, "b": 1.0}, {"a": 1.0, "b": 1.0}) == 300 - 2 * 30
    assert cost.training({"a": 0.25, "b": 0.5}, {"a": 0.25, "b": 0.5}) == 300 - 3 * 30 - 3 * 10


def test_densities_are_those_of_the_steps_whose_mask_is_closed() -> None:
    flow = Flow("mdgf_linear", 0.05, dense_epochs=1, gradient="masked")
    network = sparse_vit(flow, own={"blocks.0.attn.qkv/q": [1, 2]})
    found = [densities(network, flow, epoch, 6, 10) for epoch in range(6)]
    by_hand = [1, 1, 1, 0.25, 0.25, 0.25]  # D is 1 in step 10, and 0 from step 30 on
    assert [each["blocks.0.mlp.fc1"] for each, _ in found] == by_hand
    assert [each["blocks.0.attn.qkv"] for each, _ in found] == pytest.approx([1, 1, 1] + 3 * [2.5 / 3])
    assert all(density == gradient for density, gradient in found)
    straight = replace(flow, gradient="ste")
    assert set(densities(network, straight, 5, 6, 10)[1].values()) == {1.0}
    frames = Flow("sdgf_stepwise")
    assert [densities(sparse_vit(frames), frames, e, 6, 10)[0]["blocks.1.mlp.fc2"] for e in range(0, 6, 2)] == [
        *(0.75, 0.5, 0.25)
    ]


def test_a_layer_whose_weight_the_network_uses_by_itself_is_named() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image @ self.inner.weight

    network = Shared()
    sparsify(network, Pattern(1, 4), ["inner"], Flow("ste"))
    with pytest.raises(ValueError, match="layers: inner is never called, since the network uses its weight directly"):
        forward_cost(network, torch.rand(1, 4))


def test_the_second_moment_is_the_mean_of_adams_squared_gradients() -> None:
    weights = [nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(4))]
    adam, descent = torch.optim.Adam(weights, betas=(0.9, 0.75)), torch.optim.SGD(weights, lr=0.1)
    assert mean_second_moment(adam, weights) is None
    loss = (weights[0] ** 2).sum() + (3 * weights[1]).sum()
    expected = 0.25 * (sum((4 * weights[0].detach() ** 2).flatten()) + 4 * 9) / 10
    loss.backward()
    adam.step()
    moment = mean_second_moment(adam, weights)
    assert moment is not None
    torch.testing.assert_close(moment, expected)
    assert mean_second_moment(descent, weights) is None
