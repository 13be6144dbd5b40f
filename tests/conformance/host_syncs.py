"""Host synchronisations in training steps: reading numbers, shapes that depend on values, copies to the host.

    host_syncs.watch()    # after simulated_device.register(); counts in every fit of this process from now on
    host_syncs.report()   # a line that `found` reads

The first two steps are not counted, because one-time set-up does not matter. A step consists of everything that
Lightning does with a batch, from its arrival to the last callback hook.
"""

import json
import sys
from collections import Counter
from typing import Any

from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.utils._pytree import tree_leaves

from tests.command import ROOT
from tests.conformance import simulated_device
from tests.conformance.simulated_device import aten, on_device

KINDS = ("item", "tolist", "nonzero", "to the host", "to the device")
FIRST = 2
"""Number of initial steps that are not counted."""
ROOMS = tuple(f"{ROOT / room}/" for room in ("callbacks", "lightning_modules", "datamodules", "experiments"))
READS = {
    *(aten._local_scalar_dense.default, aten.equal.default, aten.allclose.default, aten._linalg_check_errors.default),
    *(aten._linalg_eigh.default, aten._linalg_svd.default),  # these also check for convergence
    *(aten.linalg_eig.default, aten._linalg_eigvals.default, aten.linalg_lstsq.default),
}
SHAPES = {  # the host allocates the result, whose size is known only on the device
    *(aten.nonzero.default, aten.masked_select.default, aten.bincount.default, aten.repeat_interleave.Tensor),
    *(aten._unique.default, aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default),
}
PUTS = simulated_device.INDEXED - {aten.index.Tensor}
PREFIX = "host syncs: "
_steps = 0
_counted: Counter[tuple[str, str]] = Counter()
_active = False


def kind_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return the kind of synchronisation that an operator causes, or None."""
    if func in READS:
        return "item"
    if func in SHAPES:
        return None if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None else "nonzero"
    if func in simulated_device.INDEXED:
        masks = [index for index in args[1] if index is not None and index.element_size() == 1 and on_device(index)]
        filled = func in PUTS and args[2].numel() == 1 and not any(args[3:4])  # is a masked_fill_ on CUDA
        return "nonzero" if masks and not filled else None
    waits = not kwargs.get("non_blocking") and not (func is aten.copy_.default and any(args[2:3]))
    if func is aten._to_copy.default and on_device(args[0]) and waits:
        place = kwargs.get("device")
        return "to the host" if place is not None and place.type == "cpu" else None
    if func is aten.copy_.default and on_device(args[1]) != on_device(args[0]) and waits:
        return "to the host" if on_device(args[1]) else "to the device"
    return None


def place_of(frame: Any) -> str:
    """Return `file:line function` of the innermost frame in the project, or in a library if there is none."""
    libraries = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(ROOMS):
            return f"{file.removeprefix(f'{ROOT}/')}:{frame.f_lineno} {frame.f_code.co_qualname}"
        if "site-packages/" in file and not libraries and "/torch/" not in file:
            libraries = f"{file.rpartition('site-packages/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return libraries or "torch"


def note(kind: str) -> None:
    if _active and _steps > FIRST:
        _counted[kind, place_of(sys._getframe(1))] += 1


def watch() -> None:
    """From now on, count the synchronisations in every fit of this process."""
    advance, tolist = _TrainingEpochLoop.advance, simulated_device.DeviceTensor.tolist

    def counted(self: Any, *args: Any) -> None:
        global _active, _steps
        _active, _steps = True, _steps + 1
        try:
            advance(self, *args)
        finally:
            _active = False

    def listed(self: Any) -> Any:
        note("tolist")
        return tolist(self)

    def operator(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _active and any(map(on_device, tree_leaves((args, kwargs)))) and (kind := kind_of(func, args, kwargs)):
            note(kind)

    _TrainingEpochLoop.advance = counted  # type: ignore[method-assign]
    simulated_device.DeviceTensor.tolist = listed  # type: ignore[method-assign]
    simulated_device.BEFORE.append(operator)


def report() -> str:
    """Return the counts as one line of text."""
    places = [[kind, place, count] for (kind, place), count in sorted(_counted.items())]
    return PREFIX + json.dumps({"steps": max(_steps - FIRST, 0), "places": places})


def found(printed: str) -> tuple[int, dict[tuple[str, str], int]]:
    """Find the first report line in the output, and return its number of steps and its counts by kind and location."""
    line = next(line for line in printed.splitlines() if line.startswith(PREFIX))
    read = json.loads(line.removeprefix(PREFIX))
    return read["steps"], {(kind, place): count for kind, place, count in read["places"]}
