"""Matrix products of linear layers and attention whose backward pass uses only some column-row pairs.

    Z = H W^T:   dL/dW = G^T H over M = B N tokens,          G = dL/dZ; outputs, dL/dH = G W and dL/db are exact
    Y = A B:     dL/dA = G B^T over n,  dL/dB = A^T G over m,   for each sample and head

The norms of the rows of H are computed in the forward pass. The norms of the rows of G are those of the same sample in
the previous epoch.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_modules.efficiency.wta_crs.estimator import Estimator, budget, chosen_pairs, pair_probabilities
from lightning_modules.full_precision import at_least_float32


class Sampler:
    """State that a network's sampled products share: budget, estimator, and gradient norms of the current samples.

    Until `begin_step` is called for the first time, no norms are known, and sampling uses PyTorch's global random
    generator.

    Args:
        ratio: fraction of the pairs that are kept, in (0, 1].
        estimator: estimator of the gradients (see `chosen_pairs`).
    """

    def __init__(self, ratio: float, estimator: Estimator = "wta_crs") -> None:
        self.ratio = ratio
        self.estimator = estimator
        self.products: list[SampledProduct] = []
        self.samples: int | None = None
        self.known: Tensor | None = None
        self.generators: Sequence[torch.Generator | None] = (None,)

    def begin_step(
        self, samples: int, known: Tensor | None = None, generators: Sequence[torch.Generator | None] = (None,)
    ) -> None:
        """Set the number of samples, their known gradient norms and the random generators for the next step.

        Args:
            samples: number b of samples on this rank.
            known: gradient norms of these samples in the previous epoch, `[b, F]`, as returned by `measured`; unknown
                norms are 0.
            generators: one random generator for each part of the batch that is sampled separately; with n parts, sample
                j belongs to part j mod n.
        """
        self.samples, self.known, self.generators = samples, known, generators
        for product in self.products:
            product.called, product.measured = False, None

    @property
    def widths(self) -> list[int]:
        """Number of gradient norms per sample for each product, in order of definition; 0 for uncalled products."""
        return [product.width for product in self.products]

    def measured_norms(self) -> Tensor | None:
        """Return the gradient norms of the last step, `[b, F]`, in single precision or above.

        The result is None if there has been no backward pass.
        """
        found = [product.measured for product in self.products]
        like = next((norms for norms in found if norms is not None), None)
        if like is None:
            return None
        shapes = zip(found, self.widths, strict=True)
        return torch.cat([like.new_zeros(len(like), width) if norms is None else norms for norms, width in shapes], 1)


class SampledProduct:
    """A matrix product of a network; its column-row pairs are sampled, and its gradient norms are measured.

    Args:
        sampler: state that all products of the network share.
        name: name of the layer in error messages.
    """

    def __init__(self, sampler: Sampler, name: str) -> None:
        self.sampler = sampler
        self.name = name
        self.width = 0
        self.called = False
        self.measured: Tensor | None = None
        sampler.products.append(self)

    def begin(self, numbers: int) -> Tensor | None:
        """Register a call that measures `numbers` gradient norms; return the known norms `[b, numbers / b]` or None."""
        sampler = self.sampler
        if sampler.samples is None:
            return None
        if self.called:
            raise ValueError(
                f"{self.name} is called twice in a step, but its gradient norms can only be stored once: exclude "
                f"layers that share weights, and disable gradient_checkpointing"
            )
        self.called = True
        width, more = divmod(numbers, sampler.samples)
        if more or width != (self.width or width):
            raise ValueError(
                f"{self.name} has {numbers} rows for {sampler.samples} samples, but needs "
                f"{self.width or 'equally many'} for each sample: pad all texts to the same length"
            )
        self.width = width
        if sampler.known is None:
            return None
        start = sum(product.width for product in sampler.products[: sampler.products.index(self)])
        return sampler.known[:, start : start + width]

    def measure(self, *gradient_norms: Tensor) -> None:
        """Store the gradient norms of a call; each argument has the shape `[b, ...]` or `[b N]`."""
        if (samples := self.sampler.samples) is not None:
            self.measured = torch.cat([norms.reshape(samples, -1) for norms in gradient_norms], dim=1)

    def rows(self, inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """Sample rows of the inputs of a linear layer.

        Args:
            inputs: inputs H of the layer, `[b, ..., d]`.

        Returns:
            The positions of the sampled rows, `[k]`, among all rows, `[b N, d]`, and the weights of the sampled rows,
            `[k]`; None if all rows are kept.
        """
        flat = inputs.flatten(end_dim=-2)
        known = self.begin(len(flat))
        shares = len(self.sampler.generators)
        if shares == 1:
            return self._of_share(
                0, flat[None], None if known is None else fill_unknown_norms(known).view(1, -1), flatten=True
            )
        samples = self.sampler.samples or 1
        place = torch.arange(len(flat), device=flat.device).view(samples, -1)
        found = []
        for share in range(min(shares, samples)):
            own = place[share::shares].flatten()
            norms = None if known is None else fill_unknown_norms(known[share::shares]).view(1, -1)
            chosen = self._of_share(share, flat[None, own], norms, flatten=True)
            found.append(
                (own, torch.ones_like(own, dtype=flat.dtype)) if chosen is None else (own[chosen[0]], chosen[1])
            )
        position, weight = zip(*found, strict=True)
        return torch.cat(position), torch.cat(weight)

    def rows_of_heads(self, inputs: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Sample rows for each head; all heads in one part of the batch have the same number of winners.

        Args:
            inputs: rows of each head, `[b, h, M, d]`.
            known: gradient norms of the previous epoch, `[b, h, M]`, or None.

        Returns:
            The positions of the sampled rows among the M rows, `[b, h, k]`, and the weights of the sampled rows, `[b,
            h, k]`; None if all rows are kept.
        """
        shares, found = len(self.sampler.generators), []
        for share in range(min(shares, len(inputs))):
            own = inputs[share::shares]
            norms = (
                None if known is None else fill_unknown_norms(known[share::shares].flatten(1)).view(-1, inputs.shape[2])
            )
            chosen = self._of_share(share, own.flatten(0, 1), norms)
            if chosen is None:
                return None
            found.append([part.view(*own.shape[:2], -1) for part in chosen])
        if shares == 1:
            return found[0][0], found[0][1]
        position, weight = (of[0].new_empty(len(inputs), *of[0].shape[1:]) for of in zip(*found, strict=True))
        for share, (its_position, its_weight) in enumerate(found):
            position[share::shares], weight[share::shares] = its_position, its_weight
        return position, weight

    def _of_share(
        self, share: int, rows: Tensor, norms: Tensor | None, flatten: bool = False
    ) -> tuple[Tensor, Tensor] | None:
        """Sample rows of R products from `rows`, `[R, M, d]`, in one part of the batch; return None if all are kept."""
        k = budget(rows.shape[1], self.sampler.ratio)
        if k == rows.shape[1]:
            return None
        probability = pair_probabilities(rows, norms)
        generator = self.sampler.generators[share]
        uniform = torch.rand(len(rows), k, generator=generator, device=rows.device, dtype=probability.dtype)
        position, weight = chosen_pairs(probability, k, uniform, self.sampler.estimator)
        return (position[0], weight[0]) if flatten else (position, weight)


def fill_unknown_norms(known: Tensor) -> Tensor:
    """Replace unknown norms by the mean of the known norms, or by 1 if no norm is known.

    Args:
        known: nonnegative norms of each sample, `[b, N]`; if the norms of a sample are unknown, all of them are 0.
    """
    is_seen = known.amax(dim=1, keepdim=True) > 0
    mean = known.sum() / (is_seen.sum() * known.shape[1])
    return torch.where(is_seen, known, torch.where(is_seen.any(), mean, 1))


def weight_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows `[..., k, d]` by weights `[..., k]` in at least single precision; return the dtype of the rows."""
    return (at_least_float32(rows) * weight[..., None]).to(rows.dtype)


def row_norms(gradient: Tensor, dim: int = -1) -> Tensor:
    """Compute Euclidean norms along a dimension in at least single precision."""
    return torch.linalg.vector_norm(at_least_float32(gradient), dim=dim)


class _Linear(torch.autograd.Function):
    """A linear layer that stores only the sampled rows of its input for the gradient of its weight."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, product: SampledProduct) -> Tensor:
        chosen = product.rows(inputs)
        if chosen is None:
            ctx.save_for_backward(inputs, None, weight)
        else:
            rows = inputs.flatten(end_dim=-2)[chosen[0]]
            ctx.save_for_backward(weight_rows(rows, chosen[1]), chosen[0], weight)
        ctx.product = product
        return F.linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        kept, position, weight = ctx.saved_tensors
        flat = gradient.flatten(end_dim=-2)
        ctx.product.measure(row_norms(flat))
        for_input, for_weight, for_bias, _ = ctx.needs_input_grad
        partner = flat if position is None else flat[position]
        return (
            gradient @ weight if for_input else None,
            partner.T @ kept.flatten(end_dim=-2) if for_weight else None,
            flat.sum(dim=0) if for_bias else None,
            None,
        )


class _Product(torch.autograd.Function):
    """Product of A `[b, h, m, d]` and B `[b, h, d, n]` for h heads; the gradients of A and B use only sampled pairs."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, product: SampledProduct) -> Tensor:
        samples, heads, m, _ = first.shape
        n = second.shape[3]
        known = product.begin(samples * heads * (n + m))
        columns, rows = (None, None) if known is None else known.split([heads * n, heads * m], dim=1)
        pairs = (second.transpose(2, 3), columns, n), (first, rows, m)
        saved: list[Tensor | None] = []
        for operand, norms, count in pairs:
            chosen = product.rows_of_heads(operand, None if norms is None else norms.view(samples, heads, count))
            if chosen is not None:
                position, weight = chosen
                operand = operand.gather(2, position[..., None].expand(-1, -1, -1, operand.shape[3]))
                operand = weight_rows(operand, weight)
            saved += [operand, None if chosen is None else chosen[0]]
        ctx.save_for_backward(*saved)
        ctx.product = product
        return first @ second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        second, of_columns, first, of_rows = ctx.saved_tensors
        ctx.product.measure(row_norms(gradient, dim=2), row_norms(gradient))
        columns = rows = gradient
        if of_columns is not None:
            columns = gradient.gather(3, of_columns[:, :, None].expand(-1, -1, gradient.shape[2], -1))
        if of_rows is not None:
            rows = gradient.gather(2, of_rows[..., None].expand(-1, -1, -1, gradient.shape[3]))
        return columns @ second, first.transpose(2, 3) @ rows, None


def in_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """If autocast is enabled, convert float32 tensors to its dtype, as PyTorch's layers do."""
    kind = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [tensor if tensor is None or tensor.dtype != torch.float32 else tensor.to(dtype) for tensor in tensors]


def sampled_product(first: Tensor, second: Tensor, product: SampledProduct) -> Tensor:
    """Multiply `[b, h, m, d]` by `[b, h, d, n]` for h heads; gradients are computed from sampled column-row pairs."""
    return _Product.apply(*in_autocast(first, second), product)


class SampledLinear(nn.Linear):
    """A linear layer that shares the parameters of a given layer.

    The gradient of the weight is computed from sampled rows of the layer's input.

    In evaluation mode, or if gradients are disabled, this layer is equivalent to the given layer.
    """

    def __init__(self, layer: nn.Linear, product: SampledProduct) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.product = product

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(input)
        return _Linear.apply(*in_autocast(input, self.weight, self.bias), self.product)
