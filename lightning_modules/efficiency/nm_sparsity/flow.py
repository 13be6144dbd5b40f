"""The schedule that turns a dense network into an N:M sparse network; it is a function of the step and the epoch.

The schedule has no state: a resumed run computes the decay factor D and the pattern from its step and epoch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, only_with, positive, within
from lightning_modules.backbones.replacement import (
    FunctionOfThirds,
    WeightFunction,
    layers_named,
    replace_layers,
    with_function,
)
from lightning_modules.efficiency.nm_sparsity.masks import GRADIENTS, Gradient, decayed_weight, nm_mask

Way = Literal["ste", "sr_ste", "mdgf_linear", "mdgf_exponential", "sdgf_stepwise", "sdgf_geometric", "sdgf_densifying"]
WAYS: tuple[Way, ...] = get_args(Way)
Along = Literal["inputs", "outputs", "unstructured"]
AXES: dict[Along, int | None] = {"inputs": 1, "outputs": 0, "unstructured": None}
FRAMES = 4
"""Number of patterns of sdgf_geometric and sdgf_densifying."""
PULL = 2e-4
"""Weight lambda of SR-STE; this is the value that the authors of SR-STE use."""


def mask_decay(way: Way, rate: float, step: int) -> float:
    """Compute the decay factor D at a step; steps are counted from the end of the dense phase.

    Args:
        way: mdgf_linear gives max(1 - rate step, 0), mdgf_exponential gives exp(-rate step), and all other ways give 0.
        rate: decay rate beta or eta, per optimizer step.
        step: index t of the step, at least 0.
    """
    if way == "mdgf_linear":
        return max(1 - rate * step, 0.0)
    return math.exp(-rate * step) if way == "mdgf_exponential" else 0.0


def frames(way: Way, n: int, m: int, epochs: int) -> dict[int, tuple[int, int]]:
    """Return each frame's pattern (N, M) by the frame's first epoch; epochs count from the end of the dense phase.

    Args:
        way: sdgf_stepwise gives (M-1):M, M/2:M, M/4:M, ..., N:M; sdgf_geometric gives ..., 4N:4M, 2N:2M, N:M;
            sdgf_densifying gives ..., N:4M, N:2M, N:M; all other ways give only N:M.
        n: number N of nonzero weights per group.
        m: group size M.
        epochs: total length of all frames in epochs.

    Raises:
        ValueError: if `way` is sdgf_stepwise and M / N is not a power of two above 1.
    """
    patterns = [(n, m)]
    if way == "sdgf_stepwise":
        halvings = (m // n).bit_length() - 1
        if m != n * 2**halvings or not halvings:
            raise ValueError(f"m / n must be a power of two above 1 for sdgf_stepwise, got {m} / {n}")
        patterns = [(m - 1, m), *((m // 2**frame, m) for frame in range(1, halvings + 1))]
    elif way == "sdgf_geometric":
        patterns = [(n * 2**frame, m * 2**frame) for frame in reversed(range(FRAMES))]
    elif way == "sdgf_densifying":
        patterns = [(n, m * 2**frame) for frame in reversed(range(FRAMES))]
    return {int(frame * epochs / len(patterns)): pattern for frame, pattern in enumerate(patterns)}


@dataclass(frozen=True)
class Pattern:
    """The N:M pattern of sparse layers.

    Args:
        n: number N of weights that are kept in each group of M, in 1...M.
        m: number M of consecutive weights in a group; the length of the axis must be divisible by M.
        along: direction along which weights are consecutive: `inputs` (input channels) or `outputs` (output channels).
            `unstructured` keeps the largest fraction N/M of the weights of each layer, regardless of their positions.
        own: dictionary that maps name patterns of layers to a pair `[n, m]`, which these layers use instead of `n` and
            `m`. The suffix `/q`, `/k` or `/v` selects the query, key or value rows of a fused `qkv` of timm, as in
            `*.qkv/v`.
    """

    n: int
    m: int
    along: Along = "inputs"
    own: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of(AXES, **{"pattern.along": self.along})


@dataclass(frozen=True)
class Flow:
    """How layers become sparse: the decay of pruned weights or of the pattern, and the gradient of pruned weights.

    Args:
        way: way in which layers become sparse. With ste and sr_ste, layers are sparse from the start. With mdgf_linear
            and mdgf_exponential, pruned weights decay. With sdgf_stepwise and sdgf_geometric, the patterns become
            sparser. With sdgf_densifying, the first patterns are sparser than N:M.
        decay_rate: decay rate beta or eta of MDGF, per optimizer step.
        gradient: gradient of pruned weights, `ste` or `masked`.
        dense_epochs: number of epochs before pruning starts.
        fine_tune_epochs: number of epochs at the end of training in which the mask is binary and the pattern is N:M.
    """

    way: Way = "mdgf_exponential"
    decay_rate: float | None = None
    gradient: Gradient = "ste"
    dense_epochs: int = 0
    fine_tune_epochs: int = 0

    def __post_init__(self) -> None:
        decays, rate = self.way.startswith("mdgf"), {"flow.decay_rate": self.decay_rate}
        one_of(WAYS, **{"flow.way": self.way})
        one_of(GRADIENTS, **{"flow.gradient": self.gradient})
        positive(**rate)
        at_least(0, **{"flow.dense_epochs": self.dense_epochs, "flow.fine_tune_epochs": self.fine_tune_epochs})
        if decays and self.decay_rate is None:
            raise ValueError(
                f"flow.decay_rate must be set for way {self.way}, so that the decay factor is near 0 long before "
                "training ends"
            )
        if self.way in ("ste", "sr_ste") and self.gradient != "ste":
            raise ValueError(f"flow.gradient must be ste for way {self.way}, got {self.gradient}")
        only_with("way mdgf_linear or mdgf_exponential", decays, Flow, **rate)

    @property
    def pull(self) -> float:
        """Weight lambda of SR-STE; 0 for all other ways."""
        return PULL if self.way == "sr_ste" else 0.0

    def is_dense(self, epoch: int) -> bool:
        """Return whether an epoch, counted from 0, is in the dense phase."""
        return epoch < self.dense_epochs

    def decay_at(self, step: int, epoch: int, epochs: int, steps_per_epoch: float) -> float:
        """Compute the decay factor D at an optimizer step.

        Args:
            step: index of the optimizer step, counted from 0 at the start of training.
            epoch: index of the epoch that contains the step, from 0.
            epochs: total number of training epochs.
            steps_per_epoch: number of optimizer steps in an epoch.
        """
        if self.is_dense(epoch):
            return 1.0
        if epoch >= epochs - self.fine_tune_epochs:
            return 0.0
        start = self.dense_epochs * steps_per_epoch if self.dense_epochs else 0
        return mask_decay(self.way, self.decay_rate or 0.0, int(step - start))

    def closed_fraction(self, epoch: int, epochs: int, steps_per_epoch: float) -> float:
        """Compute the fraction of an epoch's steps at which the pruned weights are 0.

        The arguments are those of `decay_at`.
        """
        steps = range(epoch * int(steps_per_epoch), (epoch + 1) * int(steps_per_epoch))
        return sum(self.decay_at(step, epoch, epochs, steps_per_epoch) == 0 for step in steps) / len(steps)

    def place(
        self, step: int, epoch: int, epochs: int, steps_per_epoch: float, functions: Sequence["NMWeight"]
    ) -> None:
        """Set the state of the given weight functions for a training step; see `decay_at` for the other arguments."""
        decay = self.decay_at(step, epoch, epochs, steps_per_epoch)
        for function in functions:
            function.dense = self.is_dense(epoch)
            function.decay.fill_(decay)
            function.pattern = function.pattern_at(epoch, epochs)


class NMWeight(WeightFunction):
    """A weight function that prunes a weight to N:M.

    In training mode, pruning follows the schedule from the first call of `Flow.place`. In evaluation mode, the pattern
    at the end of the schedule is used.

    Args:
        n: number N of nonzero weights per group.
        m: group size M.
        axis: axis along which weights are consecutive; None means an unstructured mask of the whole weight.
        flow: schedule of the network.
    """

    decay: Tensor

    def __init__(self, n: int, m: int, axis: int | None, flow: Flow) -> None:
        super().__init__()
        self.n, self.m, self.axis, self.flow = n, m, axis, flow
        self.pattern = n, m
        self.dense = False
        # D is a tensor, because a compiled network would be recompiled for each value of a Python number.
        self.register_buffer("decay", torch.zeros(()), persistent=False)

    def pattern_at(self, epoch: int, epochs: int) -> tuple[int, int]:
        """Return N and M for the epoch with index `epoch`, counted from 0, in a training run of `epochs` epochs."""
        flow = self.flow
        since = epoch - flow.dense_epochs
        length = epochs - flow.dense_epochs - flow.fine_tune_epochs
        if since >= length:
            return self.n, self.m
        found = frames(flow.way, self.n, self.m, length)
        return found[max(start for start in found if start <= max(since, 0))]

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight * nm_mask(weight, self.n, self.m, self.axis)
        if self.dense:
            return weight
        mask = nm_mask(weight, *self.pattern, self.axis)
        return decayed_weight(weight, mask, self.decay, self.flow.gradient, self.flow.pull)

    def describe(self) -> dict[str, Any]:
        along = next(name for name, axis in AXES.items() if axis == self.axis)
        return {"pattern": f"{self.n}:{self.m}", "along": along}


def check_pattern(key: str, n: int, m: int, size: int, axis: int | None, flow: Flow) -> None:
    """Reject a pattern that does not fit a layer.

    Args:
        key: name of the layer in error messages.
        n: number N of nonzero weights per group.
        m: group size M.
        size: length of the axis, or number of weights if `axis` is None.
        axis: axis along which weights are consecutive; None means an unstructured mask, for which M need not divide the
            size.
        flow: schedule of the network; all its patterns must fit the layer.
    """
    within(1, m, **{f"n of {key}": n})
    for _, group in frames(flow.way, n, m, 1000).values():
        if axis is None:
            if size * n < group:
                raise ValueError(f"m of {key} must be at most {size * n}, its {size} weights times n {n}, got {group}")
        elif size % group:
            what = "fan-in" if axis == 1 else "outputs"
            raise ValueError(f"m of {key} must divide its {what} {size}, got {group}")


def sparsify(network: nn.Module, pattern: Pattern, layers: Sequence[str], flow: Flow) -> list[NMWeight]:
    """Make layers of a network N:M sparse in place; the parameters keep their names.

    Args:
        network: any network.
        pattern: patterns of the layers.
        layers: name patterns of the layers (see `layers_named`).
        flow: schedule of the network.
    """
    kinds, axis = (nn.Linear, nn.Conv2d), AXES[pattern.along]
    found: dict[str, nn.Module] = layers_named(network, layers, kinds, "layers")
    patterns: dict[str, dict[str, Sequence[int]]] = {name: {"": (pattern.n, pattern.m)} for name in found}
    for key, own in pattern.own.items():
        names, _, third = key.partition("/")
        if third not in ("", "q", "k", "v") or len(own) != 2:
            raise ValueError(
                f"pattern.own: {key}: {list(own)} must be `<layers>: [n, m]` or `<layers>/<q, k or v>: [n, m]`"
            )
        for name, layer in layers_named(network, [names], kinds, "pattern.own").items():
            rows = len(layer.weight)  # type: ignore[arg-type]
            if third and rows % 3:
                raise ValueError(f"pattern.own: {key}: {name} has {rows} rows, but q, k, v need a multiple of 3")
            thirds = patterns.get(name, {})
            patterns[name] = {"": own} if not third else {k: v for k, v in thirds.items() if k} | {third: own}
            found[name] = layer
    functions: list[NMWeight] = []

    def made(name: str, layer: Any) -> nn.Module:
        own_functions = {}
        for third, (own_n, own_m) in patterns[name].items():
            length = layer.weight.numel() if axis is None else layer.weight.shape[axis]
            size = length // (3 if third and axis != 1 else 1)
            check_pattern(f"{name}/{third}" if third else name, own_n, own_m, size, axis, flow)
            own_functions[third] = NMWeight(own_n, own_m, axis, flow)
        functions.extend(own_functions.values())
        whole = own_functions.get("")
        return with_function(layer, FunctionOfThirds(own_functions) if whole is None else whole)

    replace_layers(network, found, "layers", made)
    return functions
