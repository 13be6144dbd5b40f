"""The schedule that turns a dense network into an N:M sparse network; it is a function of the step and the epoch.

The schedule has no state: a resumed run computes the decay factor D and the pattern from its step and epoch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.arguments import within
from lightning_modules.backbones.replacement import (
    FunctionOfThirds,
    WeightFunction,
    layers_named,
    replace_layers,
    with_function,
)
from lightning_modules.efficiency.nm_sparsity.masks import Gradient, decayed_weight, nm_mask

Way = Literal["ste", "sr_ste", "mdgf_linear", "mdgf_exponential", "sdgf_stepwise", "sdgf_geometric", "sdgf_densifying"]
WAYS: tuple[Way, ...] = get_args(Way)
Along = Literal["inputs", "outputs", "unstructured"]
AXES: dict[Along, int | None] = {"inputs": 1, "outputs": 0, "unstructured": None}
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


def frames(way: Way, n: int, m: int, epochs: int, geometric_frames: int) -> dict[int, tuple[int, int]]:
    """Return each frame's pattern (N, M) by the frame's first epoch; epochs count from the end of the dense phase.

    Args:
        way: sdgf_stepwise gives (M-1):M, M/2:M, M/4:M, ..., N:M; sdgf_geometric gives ..., 4N:4M, 2N:2M, N:M;
            sdgf_densifying gives ..., N:4M, N:2M, N:M; all other ways give only N:M.
        n: number N of nonzero weights per group.
        m: group size M.
        epochs: total length of all frames in epochs.
        geometric_frames: number of frames for sdgf_geometric and sdgf_densifying.

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
        patterns = [(n * 2**frame, m * 2**frame) for frame in reversed(range(geometric_frames))]
    elif way == "sdgf_densifying":
        patterns = [(n, m * 2**frame) for frame in reversed(range(geometric_frames))]
    return {int(frame * epochs / len(patterns)): pattern for frame, pattern in enumerate(patterns)}


class Flow:
    """The state shared by all sparse layers of a network: the schedule, and the current position in it.

    Layers are sparse until `place` is called for the first time.

    Args:
        way: way in which the network becomes sparse.
        rate: decay rate of MDGF.
        gradient: gradient of pruned weights, `ste` or `masked`.
        dense_epochs: number of epochs before sparsification starts.
        fine_tune_epochs: number of epochs at the end of training in which the mask is binary and the pattern is N:M.
        geometric_frames: number of patterns for sdgf_geometric and sdgf_densifying.
    """

    def __init__(
        self,
        way: Way,
        rate: float,
        gradient: Gradient = "ste",
        dense_epochs: int = 0,
        fine_tune_epochs: int = 0,
        geometric_frames: int = 4,
    ) -> None:
        self.way, self.rate, self.gradient = way, rate, gradient
        self.dense_epochs, self.fine_tune_epochs = dense_epochs, fine_tune_epochs
        self.geometric_frames = geometric_frames
        self.pull = PULL if way == "sr_ste" else 0.0
        self.dense = False

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
        return mask_decay(self.way, self.rate, int(step - start))

    def closed(self, epoch: int, epochs: int, steps_per_epoch: float) -> float:
        """Compute the fraction of an epoch's steps at which the pruned weights are 0.

        The arguments are those of `decay_at`.
        """
        steps = range(epoch * int(steps_per_epoch), (epoch + 1) * int(steps_per_epoch))
        return sum(self.decay_at(step, epoch, epochs, steps_per_epoch) == 0 for step in steps) / len(steps)

    def place(
        self, step: int, epoch: int, epochs: int, steps_per_epoch: float, functions: Sequence["NMWeight"]
    ) -> None:
        """Set the state of the given weight functions for a training step; see `decay_at` for the other arguments."""
        self.dense = self.is_dense(epoch)
        decay = self.decay_at(step, epoch, epochs, steps_per_epoch)
        for function in functions:
            function.decay.fill_(decay)
            function.pattern = function.pattern_at(epoch, epochs)


class NMWeight(WeightFunction):
    """A weight function that prunes a weight to N:M.

    In training mode, pruning follows the schedule. In evaluation mode, the pattern at the end of the schedule is used.

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
        # D is a tensor, because a compiled network would be recompiled for each value of a Python number.
        self.register_buffer("decay", torch.zeros(()), persistent=False)

    def pattern_at(self, epoch: int, epochs: int) -> tuple[int, int]:
        """Return N and M for the epoch with index `epoch`, counted from 0, in a training run of `epochs` epochs."""
        flow = self.flow
        since = epoch - flow.dense_epochs
        length = epochs - flow.dense_epochs - flow.fine_tune_epochs
        if since >= length:
            return self.n, self.m
        found = frames(flow.way, self.n, self.m, length, flow.geometric_frames)
        return found[max(start for start in found if start <= max(since, 0))]

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight * nm_mask(weight, self.n, self.m, self.axis)
        if self.flow.dense:
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

    Raises:
        ValueError: if a pattern does not fit the layer; the message contains `key` and the values.
    """
    within(1, m, **{f"n of {key}": n})
    for _, group in frames(flow.way, n, m, 1000, flow.geometric_frames).values():
        if axis is None:
            if size * n < group:
                raise ValueError(f"m of {key} must be at most {size * n}, its {size} weights times n {n}, got {group}")
        elif size % group:
            what = "fan-in" if axis == 1 else "outputs"
            raise ValueError(f"m of {key} must divide its {what} {size}, got {group}")


def sparsify(
    network: nn.Module,
    n: int,
    m: int,
    layers: Sequence[str],
    own: Mapping[str, Sequence[int]],
    along: Along,
    flow: Flow,
) -> list[NMWeight]:
    """Make layers of a network N:M sparse in place; the parameters keep their names.

    Args:
        network: any network.
        n: number N of nonzero weights per group.
        m: group size M.
        layers: name patterns of the layers (see `layers_named`).
        own: dictionary that maps name patterns of layers to a pair `[n, m]`, which these layers use instead of `n` and
            `m`. The suffix `/q`, `/k` or `/v` selects the query, key or value rows of a fused `qkv`.
        along: direction along which weights are consecutive.
        flow: schedule of the network.

    Raises:
        ValueError: if a pattern does not fit a layer, or if a name pattern is invalid; the message names the pattern or
            the layer.
    """
    kinds, axis = (nn.Linear, nn.Conv2d), AXES[along]
    found: dict[str, nn.Module] = layers_named(network, layers, kinds, "layers")
    patterns: dict[str, dict[str, Sequence[int]]] = {name: {"": (n, m)} for name in found}
    for key, pattern in own.items():
        names, _, third = key.partition("/")
        if third not in ("", "q", "k", "v") or len(pattern) != 2:
            raise ValueError(
                f"own: {key}: {list(pattern)} must be `<layers>: [n, m]` or `<layers>/<q, k or v>: [n, m]`"
            )
        for name, layer in layers_named(network, [names], kinds, "own").items():
            if third and len(layer.weight) % 3:  # type: ignore[arg-type]
                raise ValueError(f"own: {key}: {name} has {len(layer.weight)} rows, but q, k, v need a multiple of 3")  # type: ignore[arg-type]
            thirds = patterns.get(name, {})
            patterns[name] = {"": pattern} if not third else {k: v for k, v in thirds.items() if k} | {third: pattern}
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
