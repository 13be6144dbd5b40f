"""Trace an exported function to a graph that does not need this project, and check that both have equal outputs."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

TOLERANCE = 1e-5
"""Maximum difference between the outputs of function and export, relative to the largest output if that is above 1."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""Candidates for the number by which height and width must be divisible, in the order in which they are tried."""
SMALLEST = 16
"""Smallest dynamic height and width if the multiple is 1, so that a few pooling layers leave more than one pixel.

If the multiple is above 1, the smallest dynamic height and width are twice the multiple.
"""
COUNTS = {"B": "batch", "N": "samples"}
SIDES = {"H": "height", "W": "width"}


class Traced(NamedTuple):
    """A traced function."""

    program: ExportedProgram
    multiple: int
    """Height and width may be any multiple of this number. 0 means that they are fixed."""
    sizes: dict[str, int]
    """Sizes of the fixed dimensions by name."""
    dynamic: tuple[dict[int, Any], ...]
    """Dynamic dimensions of each input, as a dict from position to dimension."""
    weights: set[str]
    """Names of the module's parameters and buffers that the function uses."""


class _Function(nn.Module):
    """Module that wraps a function of a module's tensors."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def examples(exported: Any, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
    """Sample an example of each input, without changing the state of the global random number generator.

    Args:
        exported: a `lightning_modules.interfaces.Exported`.
        sizes: size of each dimension by name.
        seed: seed of the examples.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tuple(
            each.sample(*(sizes[letter] for letter in each.dimensions.split())) for each in exported.inputs.values()
        )


def difference(found: Tensor, expected: Tensor) -> float:
    """Compute the largest absolute difference, divided by the largest expected value if that is above 1.

    If a value is not finite, the result is infinity.
    """
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return math.inf
    scale = max(1.0, float(expected.abs().max()))
    return float((found.double() - expected.double()).abs().max()) / scale


def trace(module: nn.Module, exported: Any, sizes: Mapping[str, int]) -> Traced:
    """Trace a function. The batch size is dynamic. Height and width are dynamic if the function allows this.

    The graph is then compared with the original function for batch sizes, heights and widths other than those of the
    traced inputs.

    Args:
        module: module to which the function belongs, in evaluation mode.
        exported: a `lightning_modules.interfaces.Exported`. Its context manager, which loads the weights to be
            exported, must be active.
        sizes: sizes of the fixed dimensions, and default height and width, by name.
    """
    name = type(module).__name__
    module.requires_grad_(False)
    with torch.no_grad():
        _refuse_random(name, exported, {**sizes, "B": 2, "N": 2})
        limited = False
        try:
            found = _check(module, exported, sizes, 0, limited)
        except _Failed:
            limited = True
            try:
                found = _check(module, exported, sizes, 0, limited)
            except _Failed as error:
                raise ValueError(
                    f"{name} cannot be exported: its computation depends on values or on Python code ({error})"
                ) from error
        for multiple in _multiples(exported, sizes):
            with suppress(_Failed):
                return _check(module, exported, sizes, multiple, limited)
        return found


class _Failed(Exception):
    """Raised if tracing failed, or if the outputs of graph and function differ. The message gives the reason."""


def _check(module: nn.Module, exported: Any, sizes: Mapping[str, int], multiple: int, limited: bool) -> Traced:
    """Trace a function, and compare the graph with the function. This function takes the arguments of `_traced`."""
    try:
        traced = _trace(module, exported, sizes, multiple, limited)
        graph = traced.program.module()
        tested = others(exported, traced)
        largest = max(difference(graph(*inputs), exported.function(*inputs)) for inputs in tested)
    except Exception as error:  # torch.export re-raises errors of the module and has many error types
        raise _Failed(" ".join(str(error).split())[:200] or type(error).__name__) from error
    if largest > TOLERANCE:
        raise _Failed(f"its graph differs from it by {largest:.1e}")
    return traced


def others(exported: Any, traced: Traced) -> list[tuple[Tensor, ...]]:
    """Sample inputs whose sizes differ from the traced inputs: a single image, and a larger batch of larger images."""
    step = traced.multiple
    larger = {
        letter: traced.sizes[letter] + step * add for letter, add in (("H", 1), ("W", 3)) if letter in traced.sizes
    }
    return [
        examples(exported, {**traced.sizes, "B": 1, "N": 3}, seed=1),
        examples(exported, {**traced.sizes, **larger, "B": 3, "N": 30}, seed=2),
    ]


def _refuse_random(name: str, exported: Any, sizes: Mapping[str, int]) -> None:
    inputs = examples(exported, sizes)
    try:
        with torch.random.fork_rng(devices=[]):
            first, second = exported.function(*inputs), exported.function(*inputs)
    except Exception as error:
        shape = " x ".join(str(sizes[letter]) for letter in "CHW" if letter in sizes)
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} cannot process images of {shape}: give --image_shape ({reason})") from error
    if not torch.equal(first, second):
        raise ValueError(f"{name} cannot be exported: its prediction depends on random numbers")


def _multiples(exported: Any, sizes: Mapping[str, int]) -> list[int]:
    """List candidates for the number by which height and width must be divisible, in ascending order."""
    used = {letter for each in exported.inputs.values() for letter in each.dimensions.split()}
    for place, multiple in enumerate(MULTIPLES if used & SIDES.keys() else ()):
        with suppress(Exception):
            for add in ({"H": 1, "W": 3}, {"H": 2, "W": 1}):
                tried = {letter: _round(sizes[letter], multiple) + multiple * more for letter, more in add.items()}
                exported.function(*examples(exported, {**sizes, **tried, "B": 1, "N": 1}))
            return list(MULTIPLES[place:])
    return []


def _round(size: int, multiple: int) -> int:
    """Round a size up to a multiple of `multiple` that is at least the smallest dynamic size."""
    return max(SMALLEST, size) if multiple == 1 else multiple * max(2, -(-size // multiple))


def _trace(module: nn.Module, exported: Any, sizes: Mapping[str, int], multiple: int, limited: bool) -> Traced:
    """Trace a function of a module.

    If `limited`, it is traced with an upper limit on the batch size. The limit is removed from the graph afterwards. It
    is needed because upsampling in diffusers has a branch for batches of 64 or more images. The branch changes only the
    memory layout.
    """
    sizes = {**sizes, "B": 2, "N": 2}
    if multiple:
        sizes |= {letter: _round(sizes[letter], multiple) for letter in SIDES}
    inputs = examples(exported, sizes)
    function: nn.Module = _Function(module, exported.function).eval()
    dynamic = _dynamic(exported, multiple, limited)
    program = torch.export.export(function, inputs, dynamic_shapes=(dynamic,), strict=False)
    used = _used_names(program)
    if limited or used != program.state_dict.keys():
        dynamic = _dynamic(exported, multiple, limited=False)
        graph = _without_unused(program, used, check_guards=not limited)
        program = torch.export.export(graph, inputs, dynamic_shapes=dynamic, strict=False)
    fixed = {letter: size for letter, size in sizes.items() if letter not in COUNTS}
    return Traced(program, multiple, fixed, dynamic, {name.removeprefix("module.") for name in used})


def _dynamic(exported: Any, multiple: int, limited: bool) -> tuple[dict[int, Any], ...]:
    """List the dynamic dimensions of each input by position. Height and width are fixed if `multiple` is 0."""
    letters = [each.dimensions.split() for each in exported.inputs.values()]
    several = any("N" in each for each in letters)
    most = {"B": 7 if several else 63, "N": 9} if limited else {}
    dims: dict[str, Any] = {letter: Dim(name, max=most.get(letter)) for letter, name in COUNTS.items()}
    for letter, name in SIDES.items() if multiple else ():
        dims[letter] = Dim(name, min=SMALLEST) if multiple == 1 else multiple * Dim(f"{name}_{multiple}", min=2)
    return tuple({place: dims[letter] for place, letter in enumerate(each) if letter in dims} for each in letters)


def _used_names(program: ExportedProgram) -> set[str]:
    """Return the names of the parameters and buffers that a graph reads."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    return {names[node.name] for node in inputs if node.users and node.name in names}


def _without_unused(program: ExportedProgram, used: set[str], check_guards: bool) -> nn.Module:
    """Return the graph as a module that contains only the tensors that the graph reads."""
    graph: Any = program.module(check_guards=check_guards)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    for name in program.state_dict.keys() - used:
        owner, _, own = name.rpartition(".")
        delattr(graph.get_submodule(owner), own)
    return graph
