"""Quantizers for weights (StatsQ and LSQ) and for activations (LSQ), with their gradients."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_modules.backbones.replacement import WeightFunction
from lightning_modules.full_precision import in_full_precision

LEAST_SCALE = 1e-5
"""Minimum scale of LSQ in the forward pass; the gradient ignores this minimum."""


def row_scale(weight: Tensor) -> Tensor:
    """Compute row scales, `[out, 1, ...]`, of a weight `[out, ...]`: twice the mean absolute value of each row."""
    scale = 2 * weight.detach().abs().flatten(start_dim=1).mean(dim=1)
    return scale.view(-1, *[1] * (weight.ndim - 1))


def positions(weight: Tensor, bits: int) -> Tensor:
    """Compute the positions t = n W / s - 1/2; rounding and clipping t gives the integer of each entry."""
    scale = row_scale(weight)
    return weight.detach() / scale.clamp(min=torch.finfo(scale.dtype).tiny) * 2 ** (bits - 1) - 0.5


def integers(t: Tensor, bits: int) -> Tensor:
    """Round and clip positions t to integers i between -n and n - 1.

    Here n = 2^(bits - 1). StatsQ quantises a weight whose integer is i to s (i + 1/2) / n.
    """
    n = 2 ** (bits - 1)
    return t.round().clamp(-n, n - 1)


def near_threshold(t: Tensor, bits: int, boundary: float) -> Tensor:
    """Return a bool mask of positions t that are within `boundary` quantisation steps of a rounding threshold.

    There are 2^bits - 1 rounding thresholds. Clipped entries are about one step away from the nearest threshold.
    """
    n = 2 ** (bits - 1)
    clipped = t.clamp(-n - 0.5, (1 - 1e-6) * n - 0.5)
    nearest = (clipped - 0.5).round().clamp(-n, n - 2) + 0.5
    return (clipped - nearest).abs() <= boundary


class _StatsQ(torch.autograd.Function):
    """Quantise a weight by StatsQ, with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:
        return row_scale(weight) * ((integers(positions(weight, bits), bits) + 0.5) / 2 ** (bits - 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def statsq(weight: Tensor, bits: int) -> Tensor:
    """Quantise a weight `[out, ...]` to 2^bits symmetric, nonzero levels, with a straight-through gradient."""
    return _StatsQ.apply(weight, bits)


class _LSQ(torch.autograd.Function):
    """Round clamped values; gradients flow to the values and to the scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bounds: Tensor, parts: float, offset: float) -> Tensor:
        scale = scale.clamp(min=LEAST_SCALE)
        ctx.save_for_backward(x, scale, bounds)
        ctx.parts, ctx.offset = parts, offset
        return ((x / scale - offset).clamp(*bounds.unbind()).round() + offset) * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, scale, bounds = ctx.saved_tensors
        least, greatest = bounds.unbind()
        ratio = x / scale - ctx.offset
        inside = (ratio >= least) & (ratio <= greatest)
        of_x = gradient * inside
        of_scale = gradient * (ratio.clamp(least, greatest).round() + ctx.offset) - of_x * (ratio + ctx.offset)
        count = ctx.parts * x.numel() / scale.numel()
        return of_x.to(x.dtype), of_scale.sum_to_size(scale.shape) / (greatest * count).sqrt(), None, None, None


def lsq(x: Tensor, scale: Tensor, bounds: Tensor, parts: float = 1.0, offset: float = 0.0) -> Tensor:
    """Compute s (round(clamp(x / s - o, Q_n, Q_p)) + o), where the scale s is learned.

    The gradient passes to x where Q_n <= x / s - o <= Q_p. The gradient with respect to s is
    round(x / s - o) + o - x / s in this range, and Q_n + o or Q_p + o outside of it. The gradient with respect to s is
    then divided by sqrt(Q_p count), where count is the number of entries that share s.

    Args:
        x: tensor of any shape.
        scale: scale s, which can be broadcast to x; values below 1e-5 are replaced by 1e-5.
        bounds: bounds Q_n and Q_p, `[2]`.
        parts: number of entries on all ranks that share s, divided by the number of such entries on this rank.
        offset: offset o of the levels; 0 in LSQ, and 1/2 for the levels of StatsQ.
    """
    return _LSQ.apply(x, scale, bounds, parts, offset)


def bounds_of(bits: int, signed: bool) -> Tensor:
    """Return the bounds Q_n and Q_p of LSQ as a tensor `[2]`."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return torch.tensor([low, high], dtype=torch.get_default_dtype())


class StatsQ(WeightFunction):
    """A weight function that quantises each row of a weight with a scale that is computed from this row.

    Args:
        bits: number b of bits, at least 2.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        return statsq(weight, self.bits)

    def positions(self, weight: Tensor) -> Tensor:
        """Compute the position t of each entry; rounding and clipping t gives the integer of the entry."""
        return positions(weight, self.bits)

    def describe(self) -> dict[str, Any]:
        return {"quantizer": "statsq", "bits": self.bits}


class _Scaled(nn.Module):
    """Base class of quantizers with learned scales (LSQ), whose initial values are measured in calibration.

    Args:
        bits: number b of bits, at least 2.
        scales: number of scales.
        signed: whether quantised values have both signs; None means that calibration determines this.
    """

    bounds: Tensor

    def __init__(self, bits: int, scales: int, signed: bool | None) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.scale = nn.Parameter(torch.ones(scales))
        self.register_buffer("bounds", bounds_of(bits, signed is not False))
        self.calibrating = False
        self.parts = 1.0
        self.offset = 0.0

    def _quantize(self, x: Tensor, dim: int, factor: float) -> Tensor:
        """Quantise with a single scale, or with one scale per index along `dim`, which is counted from the end."""
        shape = (-1, *[1] * (-dim - 1))
        if self.calibrating:
            with torch.no_grad():
                if self.signed is None:
                    self.bounds.copy_(bounds_of(self.bits, bool(x.min() < -LEAST_SCALE)))
                others = [each for each in range(x.ndim) if len(self.scale) == 1 or each != x.ndim + dim]
                mean = x.abs().mean(dim=others)
                self.scale.copy_(factor * mean / self.bounds[1].sqrt())
        return lsq(x, self.scale.view(shape), self.bounds, self.parts, self.offset)

    def describe(self) -> dict[str, Any]:
        """Return the bits, the range and the scales as JSON values."""
        least, greatest = (int(each) for each in self.bounds.tolist())
        return {"quantizer": "lsq", "bits": self.bits, "range": [least, greatest], "scale": self.scale.tolist()}


class LSQWeight(_Scaled, WeightFunction):
    """A weight function that quantises the rows of a weight with learned scales.

    Args:
        bits: number b of bits, at least 2.
        rows: number of rows of the weight.
        offset: offset o of the levels s (i + o). With 1/2, the initial levels are those of StatsQ.
    """

    def __init__(self, bits: int, rows: int, offset: float = 0.0) -> None:
        super().__init__(bits, rows, signed=True)
        self.offset = offset

    def forward(self, weight: Tensor) -> Tensor:
        n = 2 ** (self.bits - 1)
        return self._quantize(weight, -weight.ndim, 2 * (n - 1) ** 0.5 / n if self.offset else 2.0)

    def positions(self, weight: Tensor) -> Tensor:
        """Compute the position W / s - o of each entry; rounding and clipping it gives the entry's integer."""
        scale = self.scale.detach().clamp(min=LEAST_SCALE)
        return weight.detach() / scale.view(-1, *[1] * (weight.ndim - 1)) - self.offset

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), **({"offset": self.offset} if self.offset else {})}


class Quantizer(_Scaled):
    """A layer that shifts activations, quantises them with learned scales, and shifts them again.

    Args:
        name: name of the quantizer in error messages.
        bits: number b of bits, at least 2.
        scales: number of scales; 1 means that all entries share one scale.
        dim: dimension, counted from the end, along which each index has its own scale: -2 for tokens, -1 for channels
            of tokens, or -3 for channels of images.
        signed: whether activations have both signs; None means that calibration determines this.
        shift: shape of the learned shifts, which must equal the sizes of the last dimensions of the activations; None
            means no shifts.
        heads: number of parts into which the last dimension is divided; each part has a separate scale for every token.
    """

    def __init__(
        self,
        name: str,
        bits: int,
        scales: int,
        dim: int,
        signed: bool | None = True,
        shift: tuple[int, ...] | None = None,
        heads: int = 1,
    ) -> None:
        super().__init__(bits, scales, signed)
        self.name, self.dim, self.heads, self.shift = name, dim, heads, shift or ()
        # Shifts are stored as vectors, so that optimizers can exclude them from weight decay.
        self.before = nn.Parameter(torch.zeros(math.prod(shift))) if shift else None
        self.after = nn.Parameter(torch.zeros(math.prod(shift))) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        shifted = x if self.before is None else x + self.before.view(self.shift)
        grouped = shifted.unflatten(-1, (self.heads, -1)).flatten(1, 2) if self.heads > 1 else shifted
        factor = 4.0 if self.signed is False else 2.0
        quantized = self._quantize(grouped, self.dim, factor).view(x.shape)
        return quantized if self.after is None else quantized + self.after.view(self.shift)

    def _check(self, x: Tensor) -> None:
        expected = [] if len(self.scale) == 1 else [(self.dim, len(self.scale) // self.heads)]
        expected += list(enumerate(self.shift, start=-len(self.shift)))
        for dim, size in expected:
            if x.shape[dim] != size:
                what = "tokens" if dim == -2 and self.dim == -2 else "entries"
                raise ValueError(f"{self.name} is quantised for {size} {what} in dimension {dim}, got {x.shape[dim]}")

    def describe(self) -> dict[str, Any]:
        """Return the bits, the range, the scales and the shifts as JSON values."""
        shifts = {} if self.before is None or self.after is None else {"before": self.before, "after": self.after}
        return super().describe() | {f"shift_{when}": shift.tolist() for when, shift in shifts.items()}


WeightQuantizer = Literal["statsq", "lsq", "lsq_half"]
WEIGHT_QUANTIZERS: tuple[WeightQuantizer, ...] = get_args(WeightQuantizer)


def weight_quantizer(kind: WeightQuantizer, bits: int, rows: int) -> StatsQ | LSQWeight:
    """Return the quantizer for a weight with `rows` rows: StatsQ, or LSQ with a learned scale for each row."""
    return StatsQ(bits) if kind == "statsq" else LSQWeight(bits, rows, 0.5 if kind == "lsq_half" else 0.0)


def scaled_parts(network: nn.Module) -> list[_Scaled]:
    """Return all modules of a network that have learned scales."""
    return [module for module in network.modules() if isinstance(module, _Scaled)]


@contextmanager
def calibrating(parts: Iterable[_Scaled]) -> Iterator[None]:
    """Context manager in which a forward pass sets each scale from inputs that preceding layers have quantised."""
    parts = list(parts)
    for part in parts:
        part.calibrating = True
    try:
        yield
    finally:
        for part in parts:
            part.calibrating = False


def head_products(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Compute W_q^T W_k for each head of weights `[heads d, C]`, and return the stacked products, `[heads C, C]`."""
    with in_full_precision(query.device):
        first, second = (weight.unflatten(0, (heads, -1)) for weight in (query, key))
        return (first.mT @ second).flatten(end_dim=1)
