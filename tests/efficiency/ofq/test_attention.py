"""Quantised attention with identity quantisers equals timm's, and QKR has the gradients of two separate weights."""

import inspect
from typing import Any

import pytest
import timm
import torch
from timm.layers.attention import Attention
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from lightning_modules.backbones.replacement import FunctionOfThirds, LinearOfFunction
from lightning_modules.efficiency.ofq.attention import QKRAttention, QuantizedAttention, attention_names
from lightning_modules.efficiency.ofq.quantizers import Quantizer, calibrating, head_products, scaled_parts, statsq

TOKENS, CHANNELS, HEADS = 9, 12, 3
GATED = pytest.mark.skipif(
    "gated" not in inspect.signature(Attention).parameters, reason="this version of timm has no gated attention"
)


def attention(windowed: bool, bias: str = "v") -> Any:
    """Build attention in double precision, with biases for the values only or for all."""
    torch.manual_seed(0)
    made: Any = (
        WindowAttention(CHANNELS, HEADS, window_size=3) if windowed else Attention(CHANNELS, HEADS, qkv_bias=True)
    )
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    if bias == "v":
        nn.init.zeros_(made.qkv.bias[: 2 * CHANNELS])
    return made.double().eval()


def unquantised(*arguments: Any, **options: Any) -> nn.Module:
    return nn.Identity()


def quantiser(part: str, scales: int, **options: Any) -> nn.Module:
    return Quantizer(part, 2, scales, **options)


def reparametrised(plain: Any, made: Any = unquantised, product: Any = None) -> QKRAttention:
    plain.qkv = LinearOfFunction(plain.qkv, FunctionOfThirds({}))
    return QKRAttention(plain, TOKENS, made, product or nn.Identity()).double().eval()


def masked(windowed: bool) -> dict[str, Tensor]:
    """Return an attention mask for two windows, or none."""
    return {"mask": -100.0 * torch.randn(2, TOKENS, TOKENS).gt(0.5).double()} if windowed else {}


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("kind", ["plain", "qkr"])
def test_without_quantisers_it_is_timms_attention(windowed: bool, kind: str) -> None:
    plain, again = (attention(windowed, "v" if kind == "qkr" else "all") for _ in range(2))
    ours = reparametrised(again) if kind == "qkr" else QuantizedAttention(again, TOKENS, unquantised).eval()
    x, options = torch.randn(4, TOKENS, CHANNELS, dtype=torch.float64), masked(windowed)
    assert sorted(ours.state_dict()) == sorted(plain.state_dict())
    gradients = []
    for module in (plain, ours):
        output = module(x, **options)
        weight = module.qkv.weight
        gradients.append([output, *torch.autograd.grad(output.square().sum(), [weight, module.proj.weight])])
    for theirs, own in zip(*gradients, strict=True):
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-10)


def test_gradients_reach_both_weights_through_the_quantised_product_by_the_others_full_precision() -> None:
    query, key = (torch.randn(CHANNELS, CHANNELS, dtype=torch.float64, requires_grad=True) for _ in range(2))
    upstream = torch.randn(HEADS * CHANNELS, CHANNELS, dtype=torch.float64)
    product = head_products(query, key, HEADS)
    of_query, of_key = torch.autograd.grad(statsq(product, 2), [query, key], upstream)
    d = CHANNELS // HEADS
    for head, gradient in enumerate(upstream.chunk(HEADS)):
        rows = slice(head * d, (head + 1) * d)
        torch.testing.assert_close(product.chunk(HEADS)[head], query[rows].T @ key[rows])
        torch.testing.assert_close(of_query[rows], key[rows] @ gradient.T)
        torch.testing.assert_close(of_key[rows], query[rows] @ gradient)


def test_a_quantised_product_has_rows_of_few_levels_and_every_part_a_gradient() -> None:
    class Product(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            self.quantised = statsq(weight, 2)
            return self.quantised

    ours = reparametrised(attention(False), quantiser, product := Product())
    x = torch.randn(4, TOKENS, CHANNELS, dtype=torch.float64)
    with calibrating(scaled_parts(ours)):
        ours(x)
    ours(x).square().sum().backward()
    assert product.quantised.shape == (HEADS * CHANNELS, CHANNELS)
    assert all(len((row / row.abs().min()).round().unique()) <= 4 for row in product.quantised)
    assert [name for name, parameter in ours.named_parameters() if parameter.grad is None] == []
    assert ours.query_key.scale.shape == (TOKENS * HEADS,)  # type: ignore[union-attr]
    assert ours.qkv.bias.grad[: 2 * CHANNELS].abs().sum() == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert head_products(ours.qkv.weight.float(), ours.qkv.weight.float(), HEADS).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qk_norm": True, "norm_layer": nn.LayerNorm}, "quantised attention does not support q_norm, k_norm"),
        ({"scale_norm": True, "norm_layer": nn.LayerNorm}, "quantised attention does not support norm"),
        pytest.param({"gated": True}, "quantised attention does not support gate", marks=GATED),
    ],
)
def test_what_attention_cannot_have_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizedAttention(Attention(CHANNELS, HEADS, **options), TOKENS, unquantised)


def test_masks_and_other_kinds_of_attention_are_refused() -> None:
    ours = QuantizedAttention(attention(False), TOKENS, unquantised)
    x = torch.randn(1, TOKENS, CHANNELS, dtype=torch.float64)
    for options in ({"is_causal": True}, {"attn_mask": torch.zeros(TOKENS, TOKENS)}):
        with pytest.raises(ValueError, match="attn_mask: quantised attention supports no masks"):
            ours(x, **options)
    with torch.device("meta"):
        network = timm.create_model("swinv2_tiny_window8_256")
    with pytest.raises(
        ValueError, match=r"layers.0.blocks.0.attn is a WindowAttention of timm.models.swin_transformer_v2"
    ):
        attention_names(network)
