"""Layers that store less for the backward pass, with equal results.

Masks are stored as bits, and normalisations store their output instead of their input.

The published memory of WTA-CRS includes these layers. Dropout stores one bit for each value instead of a byte, and ReLU
stores one bit instead of the value. Layer normalisation stores its output instead of its input. The next layer stores
that output anyway.
"""

from collections.abc import Collection
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_modules.full_precision import at_least_float32, in_full_precision

LEAST = 8
"""Minimum weight of a normalisation, in units of its bias's rounding, for recovering its input from its output."""


def packed(mask: Tensor) -> Tensor:
    """Pack a bool tensor into bytes, eight entries each, `[ceil(n / 8)]`."""
    flat = nn.functional.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    return (flat << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(dim=1, dtype=torch.uint8)


def unpacked(bits: Tensor, shape: torch.Size) -> Tensor:
    """Restore the bool tensor from the output of `packed`."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, None] >> places) & 1).flatten()[: shape.numel()].view(shape).bool()


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, p: float) -> Tensor:
        output, mask = torch.native_dropout(inputs, p, True)
        ctx.save_for_backward(packed(mask))
        ctx.p = p
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        scale = 0.0 if ctx.p == 1 else 1 / (1 - ctx.p)
        return gradient * unpacked(bits, gradient.shape) * scale, None


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(packed(inputs > 0))
        return inputs.relu()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (bits,) = ctx.saved_tensors
        return gradient * unpacked(bits, gradient.shape)


def divisible(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Mark the weights of a normalisation by which a stored output can be divided.

    Without a bias, these are all nonzero weights.
    """
    numbers = torch.finfo(dtype)
    least: Tensor | float = numbers.tiny if bias is None else (LEAST * numbers.eps * bias.abs()).clamp(min=numbers.tiny)
    return weight.abs() >= least


def normalised(x: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """Normalise the last dimension, and also return the inverse standard deviation."""
    if centred:
        x = x - x.mean(dim=-1, keepdim=True)
    inverse = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    return x * inverse, inverse


def scaled(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Multiply by a weight and add a bias, with a given output dtype."""
    output = x * weight
    return (output if bias is None else output + bias).to(dtype)


class _Normalisation(torch.autograd.Function):
    """Normalise the last dimension, and save the output.

    The backward pass recovers the normalised input from the output.

    Where a weight is too close to 0 to recover the normalised input, the gradient treats that input as 0.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
        x, inverse = normalised(at_least_float32(inputs), eps, centred)
        output = scaled(x, weight, bias, inputs.dtype)
        ctx.save_for_backward(output, inverse, weight, bias)
        ctx.centred = centred
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        output, inverse, weight, bias = ctx.saved_tensors
        with in_full_precision(gradient.device):
            g = gradient.to(inverse.dtype)
            unshifted = output.to(inverse.dtype) if bias is None else output.to(inverse.dtype) - bias
            x = torch.where(divisible(weight, bias, output.dtype), unshifted / weight, 0)
            inner = g * weight
            slope = inner - x * (inner * x).mean(dim=-1, keepdim=True)
            if ctx.centred:
                slope = slope - inner.mean(dim=-1, keepdim=True)
            batch = tuple(range(g.ndim - 1))
            for_weight = (g * x).sum(dim=batch).to(weight.dtype)
            for_bias = None if bias is None else g.sum(dim=batch).to(bias.dtype)
            return (slope * inverse).to(gradient.dtype), for_weight, for_bias, None, None


def compact_dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Apply dropout like `torch.nn.functional.dropout`, and save one bit for each value."""
    return _Dropout.apply(input, p) if training and p > 0 else input


class CompactDropout(nn.Dropout):
    """Dropout that saves its mask in bits."""

    def forward(self, input: Tensor) -> Tensor:
        return compact_dropout(input, self.p, self.training)


class CompactReLU(nn.ReLU):
    """ReLU that saves its mask in bits."""

    def forward(self, input: Tensor) -> Tensor:
        return _ReLU.apply(input)


class CompactNorm(nn.Module):
    """Layer normalisation that saves its output instead of its input; supports T5's, which has no mean and bias.

    Args:
        layer: source of the parameters: a `LayerNorm` over the last dimension with a weight, or a normalisation of
            transformers with `variance_epsilon`.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, getattr(layer, "bias", None)
        self.centred = isinstance(layer, nn.LayerNorm)
        self.eps = layer.eps if self.centred else layer.variance_epsilon
        self.kept_in = self.weight.dtype
        """Dtype of the last output."""
        self.reads_back = True
        """Whether the normalised input is recovered from the output; with a weight close to 0 it is saved instead."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.reads_back:
            x, _ = normalised(at_least_float32(input), self.eps, self.centred)
            return scaled(x, self.weight, self.bias, input.dtype)
        self.kept_in = input.dtype
        return _Normalisation.apply(input, self.weight, self.bias, self.eps, self.centred)


def _readable(layer: Any) -> bool:
    """Return whether a layer is a normalisation without zero weights, so that its input can be recovered."""
    layer_norm = isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1
    if not (layer_norm or hasattr(layer, "variance_epsilon")):
        return False
    weight = getattr(layer, "weight", None)
    return isinstance(weight, nn.Parameter) and (weight.is_meta or bool((weight != 0).all()))


def compact_layers(network: nn.Module) -> None:
    """Replace dropout, ReLU and layer normalisation in a network, in place; parameters remain the same objects.

    A normalisation with zero weights, which some networks have initially, is not replaced.
    """
    for name, layer in list(network.named_modules()):
        new: nn.Module | None = None
        if type(layer) is nn.Dropout:
            new = CompactDropout(layer.p)
        elif type(layer) is nn.ReLU:
            new = CompactReLU()
        elif _readable(layer):
            new = CompactNorm(layer)
        if new is not None and name:
            network.set_submodule(name, new.train(layer.training))


def keep_inputs(network: nn.Module) -> None:
    """Make normalisations with a weight close to 0 save their inputs; warn once for each normalisation.

    The function synchronises with the device. It is therefore called between epochs. At the end of an epoch, the dtype
    of the outputs is known and the checkpoint is not yet written. At the start of an epoch, initial weights may be 0.
    """
    for name, layer in network.named_modules():
        if not isinstance(layer, CompactNorm) or not layer.reads_back or layer.weight.is_meta:
            continue
        count = int((~divisible(layer.weight, layer.bias, layer.kept_in)).sum())
        if count:
            layer.reads_back = False
            rank_zero_warn(
                f"{name}: weights of this normalisation are too close to 0 ({count} of {len(layer.weight)}) to "
                f"recover its input from its output, so it saves its input from now on, which takes more memory"
            )


def kept_inputs(network: nn.Module) -> list[str]:
    """List the normalisations that save their inputs; with this list, a checkpoint can resume within an epoch."""
    return [name for name, layer in network.named_modules() if isinstance(layer, CompactNorm) and not layer.reads_back]


def restore_kept_inputs(network: nn.Module, names: Collection[str]) -> None:
    """Make the normalisations listed in a checkpoint save their inputs."""
    for name, layer in network.named_modules():
        if isinstance(layer, CompactNorm):
            layer.reads_back = name not in names
