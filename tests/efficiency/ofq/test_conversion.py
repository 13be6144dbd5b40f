"""DeiT, ViT and Swin are quantised with all their weights, in the expected layers, and exported for timm."""

import copy
import io
from typing import Any

import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from lightning_modules.backbones.normalized import Normalized
from lightning_modules.efficiency.ofq.attention import QKRAttention, QuantizedAttention
from lightning_modules.efficiency.ofq.conversion import (
    export_weights,
    input_shapes,
    quantize,
    quantized_rows,
    transformer_of,
)
from lightning_modules.efficiency.ofq.quantizers import Quantizer, calibrating, near_threshold, scaled_parts, statsq
from lightning_modules.networks.cifar_vit import CIFARViT
from lightning_modules.networks.mlp import MLP
from tests.efficiency.wta_crs.networks import vit


def distilled() -> nn.Module:
    return VisionTransformerDistilled(
        img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=2, num_heads=2, num_classes=3
    )


def swin() -> nn.Module:
    return SwinTransformer(
        img_size=16,
        patch_size=2,
        in_chans=1,
        embed_dim=8,
        depths=(2, 1),
        num_heads=(2, 2),
        window_size=4,
        num_classes=3,
    )


NETWORKS: dict[str, Any] = {"vit": vit, "deit": distilled, "swin": swin}


def image(network: nn.Module) -> torch.Tensor:
    size = transformer_of(network).patch_embed.img_size[0]
    return torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))


def quantized(network: nn.Module, bits: int | None = 2, ends: int | None = 8, reparametrised: bool = True) -> nn.Module:
    quantize(network, 2, bits, ends, reparametrised)
    with calibrating(scaled_parts(network)), torch.no_grad():
        network.eval()(image(network))
    return network


@pytest.mark.parametrize("reparametrised", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_weight_is_kept_by_its_name_and_is_trained(kind: str, reparametrised: bool) -> None:
    network = Normalized(NETWORKS[kind](), [0.3], [0.4])
    plain = dict(network.named_parameters())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ours = quantized(network, reparametrised=reparametrised)
    after, parameters = ours.state_dict(), dict(ours.named_parameters())
    assert all(parameters[name] is plain[name] for name in plain)
    assert all(after[name].equal(before[name]) for name in before)
    assert ours.load_state_dict(before, strict=False).unexpected_keys == []
    ours.train()(image(ours)).square().sum().backward()
    assert [name for name, parameter in parameters.items() if parameter.grad is None] == []
    kinds = {type(module) for module in ours.modules()}
    assert (QKRAttention in kinds, QuantizedAttention in kinds) == (reparametrised, not reparametrised)
    layers = [rows.name for rows in quantized_rows(ours)]
    assert len(layers) == {"vit": 8, "deit": 8, "swin": 13}[kind]
    assert any(name.endswith("qkv/v" if reparametrised else "qkv") for name in layers)
    ends = [module for module in ours.modules() if isinstance(module, Quantizer) and module.bits == 8]
    assert len(ends) == {"vit": 2, "deit": 3, "swin": 2}[kind]
    assert ours(image(ours)).shape == (2, 3)


def test_scales_are_of_tokens_channels_and_heads() -> None:
    network: Any = quantized(distilled())
    attention, block = network.blocks[0].attn, network.blocks[0].mlp
    sizes = {name: len(getattr(attention, name).scale) for name in ("input", "query_key", "value", "softmax")}
    assert sizes == {"input": 6, "query_key": 12, "value": 8, "softmax": 6}
    assert (block.fc1.input.describe()["range"], block.fc2.input.describe()["range"]) == ([-2, 1], [0, 3])
    assert (len(network.head.input.scale), network.patch_embed.proj.input.before.shape) == (1, (64,))
    shapes = input_shapes(swin())
    assert shapes["layers.0.blocks.0.attn"] == (4, 16, 8)
    assert shapes["layers.1.downsample.reduction"] == (1, 4, 4, 32)


@pytest.mark.parametrize("kind", NETWORKS)
def test_exported_weights_give_a_plain_network_the_same_logits_where_weights_alone_are_quantised(kind: str) -> None:
    plain = NETWORKS[kind]()
    ours = quantized(copy.deepcopy(plain), bits=None, reparametrised=False)
    weights, told = export_weights(Normalized(ours, [0.0], [1.0]), plain)
    loaded = NETWORKS[kind]()
    loaded.load_state_dict(weights)
    torch.testing.assert_close(loaded.eval()(image(ours)), ours(image(ours)), rtol=0, atol=1e-6)
    assert (loaded(image(ours)) - plain.eval()(image(ours))).abs().max() > 1e-3
    for name, layer in told.items():
        levels = weights[f"{name}.weight"].flatten(1) / torch.tensor(layer["scale"])[:, None]
        half = 0.25 if layer["quantizer"] == "statsq" else 0.0  # levels (2 k + 1) / 4
        steps = (levels - half) * (2 if half else 1)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("reparametrised", [True, False])
def test_blocks_may_have_learned_scales_whose_integers_and_thresholds_are_tracked(reparametrised: bool) -> None:
    plain = vit()
    ours = copy.deepcopy(plain)
    quantize(ours, 2, None, 8, reparametrised, "lsq")
    with calibrating(scaled_parts(ours)), torch.no_grad():
        ours.eval()(image(ours))
    rows = list(quantized_rows(ours))
    assert [each.name for each in rows] == [each.name for each in quantized_rows(quantized(copy.deepcopy(plain)))] or (
        not reparametrised
    )
    for each in rows:
        scale = 2 * each.weight.abs().mean(dim=1, keepdim=True)  # Q_p is 1
        torch.testing.assert_close(each.quantizer.scale, scale[:, 0])
        expected = (each.weight / scale).round().clamp(-2, 1)
        assert each.integers.equal(expected)
        torch.testing.assert_close(each.quantizer(each.weight), scale * expected)
        near = [((each.weight / scale) - threshold).abs() <= 0.1 for threshold in (-1.5, -0.5, 0.5)]
        assert near_threshold(each.positions, 2, 0.1).equal(near[0] | near[1] | near[2])
    ours(image(ours)).square().sum().backward()
    assert all(bool(each.quantizer.scale.grad.any()) for each in rows)
    weights, told = export_weights(ours, plain)
    name = rows[0].name.partition("/")[0]
    described = told[name]["v"] if reparametrised else told[name]
    assert (described["quantizer"], len(described["scale"])) == ("lsq", len(rows[0].weight))
    if not reparametrised:
        loaded = vit()
        loaded.load_state_dict(weights)
        torch.testing.assert_close(loaded.eval()(image(ours)), ours(image(ours)), rtol=0, atol=1e-6)


@pytest.mark.nightly
def test_quantised_activations_run_in_an_exported_program_of_torchs_own_operations() -> None:
    network = quantized(vit()).requires_grad_(False)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (image(network),), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(loaded.module()(images), network(images), rtol=0, atol=1e-5)
    called = {str(node.target) for node in loaded.graph.nodes if node.op == "call_function"}
    assert "aten.round.default" in called
    assert not [name for name in called if "lsq" in name.lower() or "statsq" in name.lower()]


def test_what_a_plain_network_has_no_place_for_is_told() -> None:
    plain = distilled()
    ours = quantized(copy.deepcopy(plain))
    weights, told = export_weights(ours, plain)
    trained, quantised = (each["blocks.0.attn.qkv.weight"] for each in (plain.state_dict(), weights))
    assert quantised[:16].equal(trained[:16])
    assert quantised[16:].equal(statsq(trained[16:], 2))
    assert told["blocks.0.attn.product"] == {"quantizer": "statsq", "bits": 2, "effective_weights": False}
    assert len(told["blocks.0.attn.qkv"]["v"]["scale"]) == 8
    assert set(told["blocks.1.attn.value"]) == {"quantizer", "bits", "range", "scale", "shift_before", "shift_after"}
    assert set(weights) == set(plain.state_dict())


def other_attention() -> nn.Module:
    network: Any = vit()
    network.blocks[0].attn = nn.MultiheadAttention(8, 2)
    return network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (CIFARViT(width=12, depth=1, num_heads=2), "blocks.0.attention is a Attention of lightning_modules"),
        (MLP(4, [4], 2), "network: MLP contains no VisionTransformer or SwinTransformer of timm"),
        (vit().requires_grad_(False), "network: patch_embed.proj is frozen"),
        (timm.models.VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, qk_norm=True),
         "network: blocks.0.attn: quantised attention does not support q_norm, k_norm"),
        (other_attention(), "network: blocks.0.attn is a MultiheadAttention of torch.nn"),
        (quantized(vit()), "network: blocks.0.attn is a QKRAttention of lightning_modules"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_quantised_are_named(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(network, 2, 2, 8, True)


def test_another_number_of_tokens_than_calibrated_is_named() -> None:
    network: Any = quantized(timm.models.VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=2, num_classes=3
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"blocks.0.attn.input is quantised for 5 tokens in dimension -2, got 4"):
        network.blocks(torch.rand(1, 4, 8))
