"""Multiply vectors by the Hessian of a network's mean cross-entropy, or by the Gauss-Newton part of the Hessian.

    H v = d/dw <grad L(w), v>,    G v = J^T (d^2 L / dz^2) J v,    L = (1/N) sum_i cross-entropy(z(w, x_i), y_i)

Here, w are the network's trainable parameters, z its logits and J = dz/dw. Batches are weighted by their numbers of
samples, and sums are all-reduced over ranks. L does not include weight decay, which would add its coefficient to every
eigenvalue. Attention runs without fused kernels, because these have no second derivative.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from datamodules.arguments import one_of
from datamodules.distributed.collectives import all_reduce_sum
from lightning_modules.backbones.normalized import BATCH_NORM
from lightning_modules.full_precision import in_full_precision
from lightning_modules.optim.optimizers import trainable_parameters
from lightning_modules.torch_internals import times_written
from lightning_modules.training.evaluation_mode import evaluating

KEPT_BYTES = 2 << 30
"""Maximum memory, in bytes, of the gradient graphs kept between products, in addition to the first batch's graph."""
Matrix = Literal["hessian", "gauss_newton"]
BatchNorm = Literal["batch", "running"]


@contextmanager
def curvature_mode(network: nn.Module, batch_norm: BatchNorm) -> Iterator[None]:
    """Context manager for measurements of curvature: no dropout, and no change of BatchNorm's running statistics.

    Args:
        network: network whose state is changed in the context and restored afterwards.
        batch_norm: statistics that BatchNorm uses: the statistics of each batch, or the running statistics.
    """
    one_of(get_args(BatchNorm), batch_norm=batch_norm)
    layers = [part for part in network.modules() if isinstance(part, BATCH_NORM)] if batch_norm == "batch" else []
    tracked = [(layer, layer.track_running_stats) for layer in layers]
    with evaluating(network):
        for layer in layers:
            layer.training, layer.track_running_stats = True, False
        try:
            with sdpa_kernel(SDPBackend.MATH), in_full_precision(next(network.parameters()).device):
                yield
        finally:
            for layer, track in tracked:
                layer.track_running_stats = track


def refuse_without_curvature(
    network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], batch_norm: BatchNorm, needed_by: str
) -> None:
    """Compute one product as a trial, and reject networks that use autocast or have no second derivative.

    Args:
        network: see `CurvatureProduct`.
        batches: batches of a few samples.
        batch_norm: see `curvature_mode`.
        needed_by: name of the caller, for error messages.
    """

    def in_autocast(part: nn.Module, _: Any) -> None:
        if torch.is_autocast_enabled(batches[0][1].device.type):
            raise ValueError(f"{needed_by} needs single precision or better, but {type(part).__name__} uses autocast")

    hooks = [part.register_forward_pre_hook(in_autocast) for part in network.modules()]
    try:
        with curvature_mode(network, batch_norm):
            product = CurvatureProduct(network, batches)
            product(torch.ones(product.size).to(product.like))
    except (RuntimeError, NotImplementedError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"{needed_by} needs second derivatives, which {type(network).__name__} lacks (for example, fused attention "
            f"has none): {reason}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def saved_bytes(apart_from: Sequence[Tensor]) -> Iterator[dict[int, int]]:
    """Measure the memory of autograd graphs that are built in this context. Yield storage sizes by storage address.

    Args:
        apart_from: tensors that are not counted, because they stay in memory even without a graph.
    """
    there, sizes = {each.untyped_storage().data_ptr() for each in apart_from}, {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in there:
            sizes[storage.data_ptr()] = storage.nbytes()
        return saved.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        yield sizes


class CurvatureProduct:
    """Multiply vectors by the curvature of the mean cross-entropy at a network's weights; use inside `curvature_mode`.

    Args:
        network: maps inputs to logits `[B, K]`, in single precision or better; its trainable parameters are w.
        batches: this rank's inputs and labels `[B]`, batch by batch. Gradients and their graphs are kept for the first
            batch, and for as many further batches as fit in 2 GiB. Keeping them halves the cost of later products for
            these batches.
        matrix: `hessian`, or `gauss_newton`, which is positive semidefinite.

    Raises:
        ValueError: if `matrix` is unknown, or parameters are in half precision.
    """

    def __init__(
        self, network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], matrix: Matrix = "hessian"
    ) -> None:
        one_of(get_args(Matrix), matrix=matrix)
        trained = {id(each) for each in trainable_parameters(network)}
        self.network = network
        self.weights = {name: each.detach() for name, each in network.named_parameters() if id(each) in trained}
        if half := [name for name, each in self.weights.items() if each.dtype in (torch.float16, torch.bfloat16)]:
            raise ValueError(
                f"curvature needs single precision or better, and {half[0]} is in half precision: use 32-true"
            )
        self.batches = batches
        self.matrix = matrix
        self.like = next(iter(self.weights.values()))
        self.leaves = {name: each.detach().requires_grad_() for name, each in self.weights.items()}
        self.gradients: dict[int, list[Tensor]] = {}  # gradients of batch losses, with their graphs, by batch index
        self.kept, self.version = 0, -1
        self.samples = all_reduce_sum(torch.tensor(sum(len(label) for _, label in batches), device=self.like.device))

    @property
    def size(self) -> int:
        """Number of weights, P."""
        return sum(each.numel() for each in self.weights.values())

    def __call__(self, vector: Tensor) -> Tensor:
        """Compute H v or G v, `[P]`. Must be called on every rank."""
        parts = vector.split([each.numel() for each in self.weights.values()])
        v = {name: part.view_as(each) for (name, each), part in zip(self.weights.items(), parts, strict=True)}
        total = torch.zeros_like(vector)
        for number, (inputs, label) in enumerate(self.batches):
            hessian = self.matrix == "hessian"
            total += concatenate_flat(self._hessian(number, inputs, label, v) if hessian else self._newton(inputs, v))
        return all_reduce_sum(total) / self.samples

    def gradient(self) -> Tensor:
        """Compute the gradient of L, `[P]`. Must be called on every rank."""
        total = torch.zeros(self.size, dtype=self.like.dtype, device=self.like.device)
        for inputs, label in self.batches:
            total += concatenate_flat(grad(lambda weights, x=inputs, y=label: self._loss(weights, x, y))(self.weights))
        return all_reduce_sum(total) / self.samples

    @torch.no_grad()
    def loss(self) -> Tensor:
        """Compute L, the mean cross-entropy. Must be called on every rank."""
        total = torch.zeros((), dtype=self.like.dtype, device=self.like.device)
        for inputs, label in self.batches:
            total += self._loss(self.weights, inputs, label)
        return all_reduce_sum(total) / self.samples

    def _logits(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(self.network, weights, (inputs,))

    def _loss(self, weights: dict[str, Tensor], inputs: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(self._logits(weights, inputs), label, reduction="sum")

    def _hessian(self, number: int, inputs: Tensor, label: Tensor, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute v^T H, which equals H v because H is symmetric, by reverse mode, which every layer supports."""
        leaves = list(self.leaves.values())
        if self.version != (version := sum(times_written(each) for each in leaves)):  # the weights have changed
            self.gradients, self.kept, self.version = {}, 0, version
        gradient = self.gradients.get(number)
        with torch.enable_grad():
            if gradient is None:
                with saved_bytes([*leaves, inputs, label]) as sizes:
                    loss = self._loss(self.leaves, inputs, label)
                    gradient = list(torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True))
                size = sum(sizes.values()) if number else 0
                if self.kept + size <= KEPT_BYTES:
                    self.gradients[number] = gradient
                    self.kept += size
            pairs = [(each, part) for each, part in zip(gradient, v.values(), strict=True) if each.requires_grad]
            product = torch.autograd.grad(
                [each for each, _ in pairs],
                leaves,
                [part for _, part in pairs],
                retain_graph=number in self.gradients,
                materialize_grads=True,
            )
        return dict(zip(self.leaves, product, strict=True))

    def _newton(self, inputs: Tensor, v: dict[str, Tensor]) -> dict[str, Tensor]:
        def logits(weights: dict[str, Tensor]) -> Tensor:
            return self._logits(weights, inputs)

        moved: Any = jvp(logits, (self.weights,), (v,))
        z, change = moved
        p = z.softmax(dim=1)
        curved = p * change - p * (p * change).sum(dim=1, keepdim=True)
        of_logits: Any = vjp(logits, self.weights)
        return of_logits[1](curved)[0]


def concatenate_flat(parts: dict[str, Tensor]) -> Tensor:
    """Concatenate flattened tensors, `[P]`."""
    return torch.cat([part.flatten() for part in parts.values()])
