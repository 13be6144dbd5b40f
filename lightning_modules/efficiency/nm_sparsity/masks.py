"""N:M masks, and the effective weight of a layer while its pruned weights decay.

Of every M consecutive weights along an axis, the N weights with the largest magnitude are kept:

    W~ = (m + D (1 - m)) W,   m in {0, 1},   D in [0, 1].

D = 0 gives the sparse network, and D = 1 gives the dense network.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Gradient = Literal["ste", "masked"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)


COMPARED = 16
"""Maximum group size M for which weights are compared pairwise; for larger groups, sorting is as fast."""


def nm_mask(weight: Tensor, n: int, m: int, axis: int | None = 1) -> Tensor:
    """Return a mask of the N weights with the largest magnitude in each group of M consecutive weights.

    Of weights with equal magnitudes, the first ones are selected, so that all ranks compute the same mask.

    Args:
        weight: weight, `[out, in]` or `[out, in, height, width]`; no gradient flows through the mask.
        n: number N of selected weights per group, in 1...M.
        m: group size M, which must divide the length of the axis.
        axis: axis along which weights are consecutive: 1 for the inputs of a layer, or 0 for its outputs. With None,
            the mask is unstructured: it selects the floor(numel N / M) largest weights of the whole layer.

    Returns:
        The mask, a bool tensor with the shape of the weight.
    """
    if axis is None:
        kept = weight.numel() * n // m
        return nm_mask(weight.reshape(1, -1), kept, weight.numel()).view_as(weight)
    groups = weight.detach().abs().movedim(axis, -1).unflatten(-1, (-1, m))
    if n == 1 or m > COMPARED:
        largest = groups.argsort(dim=-1, descending=True, stable=True) if n > 1 else groups.argmax(-1, keepdim=True)
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, largest[..., :n], True)
    else:
        places = groups.movedim(-1, 0).contiguous()
        larger = torch.zeros_like(places, dtype=torch.uint8)  # number of weights in the group that take precedence
        for place in range(m):
            larger[place + 1 :] += places[place] >= places[place + 1 :]
            larger[:place] += places[place] > places[:place]
        mask = (larger < n).movedim(0, -1)
    return mask.flatten(start_dim=-2).movedim(-1, axis)


class _Decayed(torch.autograd.Function):
    """Multiply pruned weights by D; `gradient` and `pull` select the gradient that is passed to the weights."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, decay: Tensor, gradient: Gradient, pull: float) -> Tensor:
        ctx.gradient, ctx.pull = gradient, pull
        if gradient == "masked":
            ctx.save_for_backward(mask, decay)
        elif pull:
            ctx.save_for_backward(mask, weight)
        return torch.where(mask, weight, decay * weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        if ctx.gradient == "masked":
            mask, decay = ctx.saved_tensors
            gradient = torch.where(mask, gradient, decay * gradient)
        elif ctx.pull:
            mask, weight = ctx.saved_tensors
            gradient = torch.where(mask, gradient, gradient + ctx.pull * weight)
        return gradient, None, None, None, None


def decayed_weight(
    weight: Tensor, mask: Tensor, decay: Tensor, gradient: Gradient = "ste", pull: float = 0.0
) -> Tensor:
    """Compute (m + D (1 - m)) W.

    Args:
        weight: weight W.
        mask: mask m, a bool tensor with the shape of W.
        decay: decay factor D, a scalar tensor.
        gradient: gradient that is passed to W, given the gradient g with respect to the result: ste passes g, and
            masked passes (m + D (1 - m)) g.
        pull: weight lambda of SR-STE, which adds lambda (1 - m) W to g; only supported with ste.
    """
    return _Decayed.apply(weight, mask, decay, gradient, pull)
