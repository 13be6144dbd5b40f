"""timm's attention with quantised activations, with or without a quantised product of query and key weights (QKR)."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from lightning_modules.backbones.replacement import LinearOfFunction, WeightFunction
from lightning_modules.efficiency.ofq.quantizers import head_products

Made = Callable[..., nn.Module]


class _QuantizedAttention(nn.Module):
    """Base class of quantised attention, which reuses the parameters, buffers and layers of a timm attention module.

    Args:
        attention: timm's `Attention` or `WindowAttention`, whose linear layers are already quantised.
        tokens: number N of input tokens.
        made: function that creates a `Quantizer` or an identity; its arguments are a name, the number of scales, and
            keyword arguments of `Quantizer`.
    """

    def __init__(self, attention: nn.Module, tokens: int, made: Made) -> None:
        super().__init__()
        unknown = [name for name in ("q_norm", "k_norm", "norm") if not _is_identity(getattr(attention, name, None))]
        if getattr(attention, "gate", None) is not None:
            unknown.append("gate")
        if unknown:
            raise ValueError(f"quantised attention does not support {', '.join(unknown)}")
        self.num_heads: int = attention.num_heads  # type: ignore[assignment]
        self.attention_scale: float = attention.scale  # type: ignore[assignment]
        self.qkv: Any = attention.qkv
        self.attn_drop: Any = attention.attn_drop
        self.proj: Any = attention.proj
        self.proj_drop: Any = attention.proj_drop
        self.windowed = isinstance(attention, WindowAttention)
        if self.windowed:
            index: Any = attention.relative_position_index
            self.relative_position_bias_table: Any = attention.relative_position_bias_table
            self.register_buffer("relative_position_index", index, persistent=False)
        self.softmax = made("softmax", tokens, dim=-2, signed=False)

    def _mix(self, logits: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the output from attention logits before scaling, `[B, H, N, N]`, and values, `[B, N, H d]`."""
        logits = logits * self.attention_scale
        tokens = logits.shape[-1]
        if self.windowed:
            index: Any = self.relative_position_index
            bias = self.relative_position_bias_table[index.flatten()].view(tokens, tokens, -1)
            logits = logits + bias.permute(2, 0, 1)
        if mask is not None:  # there is one mask for each window; all images share the masks
            windows = logits.unflatten(0, (-1, len(mask))) + mask[:, None]
            logits = windows.flatten(end_dim=1)
        weights = self.attn_drop(self.softmax(logits.softmax(dim=-1)))
        mixed = weights @ self._heads(value)
        return self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(start_dim=2)))

    def _heads(self, x: Tensor) -> Tensor:
        """Reshape `[B, N, H d]` to `[B, H, N, d]`."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def _is_identity(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)


class QuantizedAttention(_QuantizedAttention):
    """Quantised attention with one scale per token for queries and keys, and one scale per channel for values.

    The softmax has one scale for each query.
    """

    def __init__(self, attention: nn.Module, tokens: int, made: Made) -> None:
        super().__init__(attention, tokens, made)
        channels = self.qkv.out_features // 3
        self.query, self.key = (made(name, tokens, dim=-2, shift=(channels,)) for name in ("query", "key"))
        self.value = made("value", channels, dim=-1, shift=(channels,))

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, mask: Tensor | None = None
    ) -> Tensor:
        _refuse_masks(attn_mask, is_causal)
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key = self._heads(self.query(query)), self._heads(self.key(key))
        return self._mix(query @ key.mT, self.value(value), mask)


class QKRAttention(_QuantizedAttention):
    """Quantised attention in which each head's product of query and key weights is quantised as one weight (QKR).

    Biases of queries and keys are not used.

    Args:
        attention: attention module as for `QuantizedAttention`, except that the weight function of `qkv` quantises only
            the value rows.
        tokens: number N of input tokens.
        made: function that creates a `Quantizer` or an identity; its arguments are a name, the number of scales, and
            keyword arguments of `Quantizer`.
        product: weight function that quantises the products of query and key weights, `[H C, C]`, stacked over all
            heads.
    """

    qkv: LinearOfFunction

    def __init__(self, attention: nn.Module, tokens: int, made: Made, product: WeightFunction | nn.Identity) -> None:
        super().__init__(attention, tokens, made)
        inputs, values = self.qkv.in_features, self.qkv.out_features // 3
        heads = self.num_heads
        self.product = product
        self.input = made("input", tokens, dim=-2, shift=(inputs,))
        self.query_key = made("query_key", tokens * heads, dim=-2, shift=(heads * inputs,), heads=heads)
        self.value = made("value", values, dim=-1, shift=(values,))

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, mask: Tensor | None = None
    ) -> Tensor:
        _refuse_masks(attn_mask, is_causal)
        x = self.input(x)
        query, key, value = self.qkv.function(self.qkv.weight).chunk(3)
        bias = None if self.qkv.bias is None else self.qkv.bias.chunk(3)[2]
        weight = self.product(head_products(query, key, self.num_heads))
        query_key = self.query_key(F.linear(x, weight)).unflatten(2, (self.num_heads, -1))
        logits = x[:, None] @ query_key.permute(0, 2, 3, 1)
        return self._mix(logits, self.value(F.linear(x, value, bias)), mask)


def _refuse_masks(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise ValueError("attn_mask: quantised attention supports no masks except window masks")


KNOWN: dict[type[nn.Module], str] = {Attention: "VisionTransformer", WindowAttention: "SwinTransformer"}
"""Attention classes that can be quantised (subclasses are not supported), and the timm networks that use them."""


def attention_names(network: nn.Module) -> list[str]:
    """Return the names of the attention modules of a timm network.

    Raises:
        ValueError: if an attention module cannot be quantised; the message names the module and the supported classes.
    """
    names = []
    for name, module in network.named_modules():
        kind = type(module)
        if kind in KNOWN:
            names.append(name)
        elif "Attention" in kind.__name__ and not any(name.startswith(f"{each}.") for each in names):
            known = ", ".join(f"{each.__name__} of {owner}" for each, owner in KNOWN.items())
            raise ValueError(
                f"network: {name} is a {kind.__name__} of {kind.__module__}, but only these attention modules of timm "
                f"can be quantised: {known}"
            )
    return names
