"""Measures of sparse training: the number of operations, and Adam's second moment as an estimate of gradient noise."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import flop_registry, sdpa_flop

from lightning_modules.backbones.replacement import FunctionOfThirds, layers_of_functions
from lightning_modules.efficiency.nm_sparsity.flow import Flow, NMWeight
from lightning_modules.torch_internals import TorchDispatchMode
from lightning_modules.training.evaluation_mode import evaluating

GIGA = 10**9
FORMULAS: Any = {**flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop}


class Operations(TorchDispatchMode):
    """A context manager that counts the floating-point operations of matrix products by PyTorch's formulas.

    PyTorch's own counter is not used: it registers tensor hooks to track modules, and these hooks would remain on the
    trained weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if (formula := FORMULAS.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output


@dataclass
class ForwardCost:
    """Number of floating-point operations of a forward pass."""

    network: float = 0.0
    layers: dict[str, float] = field(default_factory=dict)
    """For each layer that becomes sparse, by layer name: the number of its operations before pruning."""

    def training(self, density: Mapping[str, float], gradient_density: Mapping[str, float]) -> float:
        """Return the number of operations of a training step, assuming that zero weights need no operations.

        Each layer computes three matrix products. Two of them, for the output and for the gradient of the input, use
        the effective weight. The third product is the gradient of the weight.

        Args:
            density: fraction of effective weights that are nonzero, by layer name.
            gradient_density: fraction of weights that receive a gradient, by layer name.
        """
        saved = sum(
            cost * (2 * (1 - density[name]) + (1 - gradient_density[name])) for name, cost in self.layers.items()
        )
        return 3 * self.network - saved


@torch.no_grad()
def forward_cost(network: nn.Module, inputs: Any) -> ForwardCost:
    """Count the operations of the forward pass of one sample, in evaluation mode and without compilation.

    Args:
        network: network that contains layers that become sparse.
        inputs: images or tokenised texts of at least one sample; only the first sample is used.

    Raises:
        ValueError: if a layer that becomes sparse is not called in the forward pass.
    """
    cost = ForwardCost()

    def note(name: str, layer: Any, output: Tensor) -> None:
        positions = output.numel() // layer.weight.shape[0]
        cost.layers[name] = cost.layers.get(name, 0.0) + 2 * positions * layer.weight.numel()

    layers = layers_of_functions(network)
    handles = [
        layer.register_forward_hook(lambda layer, _, output, name=name: note(name, layer, output))
        for name, layer in layers.items()
    ]
    one = {key: value[:1] for key, value in inputs.items()} if isinstance(inputs, Mapping) else inputs[:1]
    operations = Operations()
    try:
        with evaluating(network), torch.compiler.set_stance("force_eager"), operations:
            network(one)
    finally:
        for handle in handles:
            handle.remove()
    if unused := [name for name in layers if name not in cost.layers]:
        raise ValueError(
            f"layers: {unused[0]} is never called, since the network uses its weight directly; remove it from layers"
        )
    cost.network = operations.total
    return cost


def densities(
    network: nn.Module, flow: Flow, epoch: int, epochs: int, steps_per_epoch: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Compute each layer's fractions of nonzero effective weights and of weights with gradients, as epoch means.

    Args:
        network: network with the sparse layers.
        flow: schedule of the network.
        epoch: index of the epoch, from 0.
        epochs: total number of training epochs.
        steps_per_epoch: number of optimizer steps in an epoch.
    """
    closed = flow.closed_fraction(epoch, epochs, steps_per_epoch)
    density, of_gradients = {}, {}
    for name, layer in layers_of_functions(network).items():
        thirds = [each for each in layer.function.modules() if isinstance(each, NMWeight)]
        parts = 3 if isinstance(layer.function, FunctionOfThirds) else 1
        kept = [n / m for n, m in (each.pattern_at(epoch, epochs) for each in thirds)]
        sparse = (sum(kept) + parts - len(kept)) / parts
        density[name] = closed * sparse + 1 - closed
        of_gradients[name] = density[name] if flow.gradient == "masked" else 1.0
    return density, of_gradients


def mean_second_moment(optimizer: Optimizer, weights: Iterable[Tensor]) -> Tensor | None:
    """Return Adam's running mean of squared gradients, averaged over all entries of the given weights.

    The result is None if the optimizer has no such running mean.
    """
    found = [moment for weight in weights if (moment := optimizer.state[weight].get("exp_avg_sq")) is not None]
    return sum(moment.sum() for moment in found) / sum(moment.numel() for moment in found) if found else None
