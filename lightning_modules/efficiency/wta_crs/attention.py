"""Sampling of both matrix products of attention (queries and keys, weights and values), in any network.

While an attention module of timm or transformers runs, its matrix products of four-dimensional tensors are intercepted.
If the module uses fused attention, attention is computed in separate steps instead.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_modules.efficiency.wta_crs.products import SampledProduct, Sampler, sampled_product

PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__}
Dropout = Callable[[Tensor, float, bool], Tensor]


class _TakenOver(TorchFunctionMode):
    """A torch function mode that replaces the two matrix products of an attention module and its attention dropout.

    Args:
        products: two sampled products: the first replaces the product of queries and keys, and the second replaces the
            product of attention weights and values.
        dropout: dropout function, which is called with a tensor, a probability, and a bool that says whether dropout is
            active.
    """

    def __init__(self, products: list[SampledProduct], dropout: Dropout) -> None:
        super().__init__()
        self.left = list(products)
        self.dropout = dropout

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **kwargs)
        if func is F.dropout:
            return self.dropped_mask(*args, **kwargs)
        if func in PRODUCTS and self.left:
            first, second = args
            if first.ndim == second.ndim == 4 and first.shape[:2] == second.shape[:2]:
                return sampled_product(first, second, self.left.pop(0))
        return func(*args, **kwargs)

    def dropped_mask(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return self.dropout(input, p, training)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute attention in separate steps; the arguments are those of `scaled_dot_product_attention`."""
        if enable_gqa or len(self.left) < 2 or query.ndim != 4 or query.shape[:2] != key.shape[:2]:
            raise ValueError(
                "attention: modules with grouped keys and values, or with two attention calls, cannot be sampled"
            )
        scores = sampled_product(
            query * (query.shape[-1] ** -0.5 if scale is None else scale), key.mT, self.left.pop(0)
        )
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = self.dropout(scores.softmax(dim=-1), dropout_p, dropout_p > 0)
        return sampled_product(weights, value, self.left.pop(0))


def _run(
    forward: Callable[..., Any],
    module: nn.Module,
    products: list[SampledProduct],
    dropout: Dropout,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if not (module.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    mode = _TakenOver(products, dropout)
    with mode:
        output = forward(*args, **kwargs)
    if mode.left:
        raise ValueError(
            f"attention: {mode.left[0].name} multiplies {len(products) - len(mode.left)} pairs of tensors "
            f"[batch, head, token, feature], but an attention module must multiply 2"
        )
    return output


def sample_attention(module: nn.Module, name: str, sampler: Sampler, dropout: Dropout = F.dropout) -> None:
    """Change an attention module in place, so that its two products compute gradients from sampled column-row pairs.

    Args:
        module: attention module that multiplies queries by keys, and attention weights by values; the heads must be in
            dimension 1.
        name: name of the module in error messages.
        sampler: state that all sampled products of the network share.
        dropout: dropout function for the attention weights, which is called like `torch.nn.functional.dropout`.
    """
    products = [SampledProduct(sampler, f"{name} ({of})") for of in ("scores", "output")]
    # `forward` is replaced on the instance, as in gradient checkpointing; otherwise each class would need a subclass.
    module.forward = partial(_run, module.forward, module, products, dropout)
