"""Layers that store less for the backward pass than PyTorch's layers, and compute the same results.

The published memory measurements of WTA-CRS include these layers.

Dropout stores one bit for each value instead of a byte, and ReLU stores one bit instead of the value. Layer
normalisation stores its output instead of its input. Storing the output saves memory, because the next layer stores the
same tensor anyway.
"""

from collections.abc import Collection
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_modules.full_precision import at_least_float32, in_full_precision

LEAST = 8
"""Minimum weight, in units of the bias's rounding error, with which a normalisation's input can be recovered."""


def pack_bits(mask: Tensor) -> Tensor:
    """Pack the n entries of a bool tensor into bytes, `[ceil(n / 8)]`, with eight entries per byte."""
    flat = nn.functional.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    return (flat << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(dim=1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    """Restore a bool tensor from the result of `pack_bits`."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, None] >> places) & 1).flatten()[: shape.numel()].view(shape).bool()


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, p: float) -> Tensor:
        output, mask = torch.native_dropout(inputs, p, True)
        ctx.save_for_backward(pack_bits(mask))
        ctx.p = p
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        scale = 0.0 if ctx.p == 1 else 1 / (1 - ctx.p)
        return gradient * unpack_bits(bits, gradient.shape) * scale, None


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(pack_bits(inputs > 0))
        return inputs.relu()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (bits,) = ctx.saved_tensors
        return gradient * unpack_bits(bits, gradient.shape)


def divisible(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return a mask of the weights of a normalisation that are large enough for dividing a stored output by them.

    Without a bias, all nonzero weights are large enough.
    """
    numbers = torch.finfo(dtype)
    least: Tensor | float = numbers.tiny if bias is None else (LEAST * numbers.eps * bias.abs()).clamp(min=numbers.tiny)
    return weight.abs() >= least


def normalize_last_dimension(x: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """Normalise over the last dimension, and return the result and the inverse standard deviation."""
    if centred:
        x = x - x.mean(dim=-1, keepdim=True)
    inverse = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    return x * inverse, inverse


def scale_and_shift(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Multiply by a weight, add a bias, and convert the result to a given dtype."""
    output = x * weight
    return (output if bias is None else output + bias).to(dtype)


class _Normalisation(torch.autograd.Function):
    """Normalise over the last dimension, and save the output instead of the input.

    The backward pass recovers the normalised input from the output.

    If a weight is too close to 0 to recover the normalised input, the gradient treats this input as 0.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
        x, inverse = normalize_last_dimension(at_least_float32(inputs), eps, centred)
        output = scale_and_shift(x, weight, bias, inputs.dtype)
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
    """Apply dropout like `torch.nn.functional.dropout`, but save only one bit for each value."""
    return _Dropout.apply(input, p) if training and p > 0 else input


class CompactDropout(nn.Dropout):
    """A dropout layer that saves its mask as bits."""

    def forward(self, input: Tensor) -> Tensor:
        return compact_dropout(input, self.p, self.training)


class CompactReLU(nn.ReLU):
    """A ReLU layer that saves its mask as bits."""

    def forward(self, input: Tensor) -> Tensor:
        return _ReLU.apply(input)


class CompactNorm(nn.Module):
    """Layer normalisation that saves its output, not its input; also supports T5's layer, which has no mean or bias.

    Args:
        layer: layer whose parameters are used: a `LayerNorm` over the last dimension with a weight, or a normalisation
            layer of transformers that has `variance_epsilon`.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, getattr(layer, "bias", None)
        self.centred = isinstance(layer, nn.LayerNorm)
        self.eps = layer.eps if self.centred else layer.variance_epsilon
        self.kept_in = self.weight.dtype
        """Dtype of the last output."""
        self.reads_back = True
        """Whether the input is recovered from the output; if a weight is close to 0, the input is saved instead."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.reads_back:
            x, _ = normalize_last_dimension(at_least_float32(input), self.eps, self.centred)
            return scale_and_shift(x, self.weight, self.bias, input.dtype)
        self.kept_in = input.dtype
        return _Normalisation.apply(input, self.weight, self.bias, self.eps, self.centred)


def _readable(layer: Any) -> bool:
    """Return whether a layer is a normalisation whose input can be recovered: none of its weights may be zero."""
    layer_norm = isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1
    if not (layer_norm or hasattr(layer, "variance_epsilon")):
        return False
    weight = getattr(layer, "weight", None)
    return isinstance(weight, nn.Parameter) and (weight.is_meta or bool((weight != 0).all()))


def compact_layers(network: nn.Module) -> None:
    """Replace dropout, ReLU and layer normalisation in a network in place; parameters remain the same objects.

    Normalisations with zero weights, which some networks have at initialisation, are not replaced.
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
    """Make all normalisations with a weight close to 0 save their inputs, and warn once for each normalisation.

    This function synchronises with the device, so it is only called between epochs. It is called at the end of an
    epoch, when the dtype of the outputs is known and the checkpoint is not yet written. It is also called at the start
    of an epoch, because initial weights may be 0.
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
    """Return the names of the normalisations that save their inputs.

    The names are stored in checkpoints, so that a run can be resumed within an epoch.
    """
    return [name for name, layer in network.named_modules() if isinstance(layer, CompactNorm) and not layer.reads_back]


def restore_kept_inputs(network: nn.Module, names: Collection[str]) -> None:
    """Make the normalisations that a checkpoint lists save their inputs."""
    for name, layer in network.named_modules():
        if isinstance(layer, CompactNorm):
            layer.reads_back = name not in names
