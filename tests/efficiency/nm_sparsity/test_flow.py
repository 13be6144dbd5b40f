"""Decay and patterns over steps and epochs, the layers that become sparse, and rejections."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.efficiency.nm_sparsity.flow import Flow, NMWeight, Pattern, frames, mask_decay, sparsify
from lightning_modules.efficiency.nm_sparsity.masks import nm_mask
from tests.efficiency.wta_crs.networks import vit

LAYERS = ["*.fc1", "*.fc2"]


def sparse(
    network: nn.Module, n: int = 1, m: int = 4, layers: Any = LAYERS, flow: Flow = Flow("ste"), **pattern: Any
) -> list[NMWeight]:
    return sparsify(network, Pattern(n, m, **pattern), layers, flow)


def test_masks_decay_linearly_to_nothing_or_exponentially() -> None:
    assert [mask_decay("mdgf_linear", 0.25, step) for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert mask_decay("mdgf_exponential", 0.1, 0) == 1
    assert mask_decay("mdgf_exponential", 0.1, 30) == pytest.approx(math.exp(-3), abs=1e-15)
    assert mask_decay("ste", 0.1, 0) == mask_decay("sdgf_stepwise", 0.1, 0) == 0


@pytest.mark.parametrize(
    ("way", "pattern", "epochs", "expected"),
    [
        ("sdgf_stepwise", (1, 8), 100, {0: (7, 8), 25: (4, 8), 50: (2, 8), 75: (1, 8)}),
        ("sdgf_stepwise", (2, 8), 99, {0: (7, 8), 33: (4, 8), 66: (2, 8)}),
        ("sdgf_geometric", (1, 8), 100, {0: (8, 64), 25: (4, 32), 50: (2, 16), 75: (1, 8)}),
        ("sdgf_stepwise", (1, 8), 280, {0: (7, 8), 70: (4, 8), 140: (2, 8), 210: (1, 8)}),
        ("sdgf_densifying", (1, 8), 100, {0: (1, 64), 25: (1, 32), 50: (1, 16), 75: (1, 8)}),
        ("mdgf_linear", (1, 8), 100, {0: (1, 8)}),
    ],
)
def test_patterns_tighten_in_frames(way: Any, pattern: tuple[int, int], epochs: int, expected: Any) -> None:
    assert frames(way, *pattern, epochs) == expected


def test_a_place_follows_from_step_and_epoch_alone_between_a_dense_and_a_binary_phase() -> None:
    way = Flow("sdgf_stepwise", dense_epochs=35, fine_tune_epochs=35)
    [function] = [NMWeight(1, 8, 1, way)]
    starts = {}
    for epoch in range(350):
        starts.setdefault(function.pattern_at(epoch, 350), epoch)
    assert starts == {(7, 8): 0, (4, 8): 105, (2, 8): 175, (1, 8): 245}  # dense until 35
    mdgf = Flow("mdgf_linear", 0.05, dense_epochs=2, fine_tune_epochs=3)
    place = {step: mdgf.decay_at(step, step // 10, 10, 10) for step in (0, 19, 20, 30, 39, 40, 70, 99)}
    assert place == pytest.approx({0: 1, 19: 1, 20: 1, 30: 0.5, 39: 0.05, 40: 0, 70: 0, 99: 0}, abs=1e-12)
    assert Flow("mdgf_exponential", 0.1, fine_tune_epochs=1).decay_at(99, 9, 10, 10) == 0
    assert [mdgf.closed_fraction(epoch, 10, 10) for epoch in range(5)] == [0, 0, 0, 0, 1]


def test_a_layer_goes_from_dense_to_sparse_in_training_and_is_sparse_when_evaluated() -> None:
    way = Flow("mdgf_exponential", 0.1, dense_epochs=1, fine_tune_epochs=1)
    function, weight = NMWeight(1, 4, 1, way), torch.randn(8, 8)
    pruned = weight * nm_mask(weight, 1, 4)
    for step, decay in ((0, 1.0), (10, 1.0), (25, math.exp(-1.5)), (90, 0.0)):
        way.place(step, step // 10, 10, 10, [function])
        torch.testing.assert_close(function.train()(weight), pruned + decay * (weight - pruned))
        assert function.eval()(weight).equal(pruned)


def test_sr_ste_pulls_pruned_weights_towards_zero_after_the_dense_phase() -> None:
    way, weight = Flow("sr_ste", dense_epochs=1), torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
    function = NMWeight(1, 4, 1, way)
    for epoch, pull in ((0, 0.0), (1, 2e-4)):
        way.place(10 * epoch, epoch, 3, 10, [function])
        (gradient,) = torch.autograd.grad(function.train()(weight).sum(), weight)
        torch.testing.assert_close(gradient, 1 + pull * weight.detach() * ~nm_mask(weight, 1, 4))


def test_layers_have_patterns_of_their_own_and_thirds_of_a_fused_layer_too() -> None:
    network = vit()
    plain = {name: value.clone() for name, value in network.state_dict().items()}
    own = {"*.0.attn.qkv/q": [1, 8], "*.0.attn.qkv/v": [2, 4], "*.1.mlp.fc1": [1, 2]}
    functions = sparse(network, own=own)
    assert [(each.n, each.m) for each in functions] == [(1, 4), (1, 4), (1, 2), (1, 4), (1, 8), (2, 4)]
    assert list(network.state_dict()) == list(plain)
    network.eval()
    qkv: Any = network.get_submodule("blocks.0.attn.qkv")
    q, k, v = plain["blocks.0.attn.qkv.weight"].chunk(3)
    expected = torch.cat([q * nm_mask(q, 1, 8), k, v * nm_mask(v, 2, 4)])
    assert qkv.function(qkv.weight).equal(expected)
    assert qkv.function.describe() == {
        "q": {"pattern": "1:8", "along": "inputs"},
        "v": {"pattern": "2:4", "along": "inputs"},
    }


@pytest.mark.parametrize("along", ["inputs", "outputs"])
def test_convolutions_prune_channels(along: Any) -> None:
    network = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2, bias=False))
    weight, image = network[1].weight, torch.randn(2, 8, 9, 9)
    sparse(network, layers=["1"], along=along)
    pruned = nn.functional.conv2d(
        image.relu(), weight * nm_mask(weight, 1, 4, axis=int(along == "inputs")), stride=2, padding=1, groups=2
    )
    torch.testing.assert_close(network.eval()(image), pruned)


def test_masks_are_of_single_precision_under_autocast() -> None:
    seen: list[Tensor] = []
    layer = nn.Linear(16, 4)
    network = nn.Sequential(layer)
    [function] = sparse(network, layers=["0"])
    function.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(2, 16)).dtype == torch.bfloat16
    assert seen[0].dtype == seen[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["*.fc9"]}, r"layers: '\*.fc9' matches no Linear or Conv2d"),
        ({"own": {"*.kqv/q": [1, 2]}}, r"own: '\*.kqv' matches no Linear or Conv2d"),
        ({"m": 12}, "m of blocks.0.mlp.fc1 must divide its fan-in 16, got 12"),
        ({"m": 24, "along": "outputs"}, "m of blocks.0.mlp.fc1 must divide its outputs 64, got 24"),
        ({"n": 5}, r"n of blocks.0.mlp.fc1 must be in \[1, 4\], got 5"),
        ({"n": 3, "flow": Flow("sdgf_stepwise")}, "m / n must be a power of two above 1 for sdgf_stepwise, got 4 / 3"),
        ({"n": 4, "flow": Flow("sdgf_stepwise")}, "must be a power of two above 1 for sdgf_stepwise, got 4 / 4"),
        ({"flow": Flow("sdgf_geometric")}, "m of blocks.0.mlp.fc1 must divide its fan-in 16, got 32"),
        ({"m": 2048, "along": "unstructured"}, "fc1 must be at most 1024, its 1024 weights times n 1, got 2048"),
        ({"own": {"*.qkv/w": [1, 2]}}, r"own: \*.qkv/w: \[1, 2\] must be"),
        ({"own": {"*.qkv": [1]}}, r"own: \*.qkv: \[1\] must be"),
        ({"own": {"*.0.attn.proj/q": [1, 2]}}, "blocks.0.attn.proj has 16 rows, but q, k, v need a multiple of 3"),
        (
            {"own": {"*.qkv/q": [1, 32]}, "along": "outputs"},
            "m of blocks.0.attn.qkv/q must divide its outputs 16, got 32",
        ),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sparse(vit(), **arguments)
