"""Non-blocking copies that complete as late as possible.

The host may change the source of a copy to the device only after a synchronisation. The destination of a copy to the
host has valid values only after a synchronisation, too. If a source is changed too early, `ChangedTooEarly` is raised
at the next synchronisation. A destination that is read too early is full of NaN, or of 0x7f bytes for other types.
"""

import sys
import zlib
from typing import Any

import torch
from torch import Tensor

from tests.conformance import simulated_device
from tests.conformance.host_syncs import kind_of, place_of
from tests.conformance.simulated_device import aten, on_device

MOST = 512
"""Maximal number of pending copies; a copy that this many others follow is taken as completed by the device."""
_sent: list[tuple[Tensor, int, str]] = []
_awaited: list[tuple[Tensor, Tensor]] = []


class ChangedTooEarly(RuntimeError):
    """Raised for a race that would give wrong numbers on a GPU."""


def digest(tensor: Tensor) -> int:
    flat = tensor.detach().contiguous().flatten()
    return zlib.crc32(flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy())  # a table row has a stride


def check(sent: tuple[Tensor, int, str]) -> None:
    tensor, before, place = sent
    if digest(tensor) != before:
        raise ChangedTooEarly(f"a tensor {list(tensor.shape)} was changed before its copy from {place} was over")


def _arrive() -> None:
    while _awaited:
        result, numbers = _awaited.pop()
        result.data.copy_(numbers)


def wait() -> None:
    """Complete all pending copies."""
    _arrive()
    sent = _sent.copy()
    _sent.clear()
    for each in sent:
        check(each)


def _late(result: Tensor) -> None:
    """Replace the values of a pending copy to the host with NaN or filler."""
    _awaited.append((result, result.clone()))
    if result.is_floating_point() or result.is_complex():
        result.data.fill_(torch.nan)
    elif result.dtype == torch.bool:
        result.data.logical_not_()
    else:
        result.data.view(torch.uint8).fill_(0x7F) if result.ndim else result.data.fill_(0x7F)


def _order(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """At a synchronisation, complete all pending copies; before a copy to the device, complete those to the host."""
    if kind_of(func, args, kwargs) is not None:
        wait()
    elif func is aten.copy_.default and not on_device(args[1]):
        _arrive()


def _begin(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    if func is aten.copy_.default and any(args[2:3]):
        target, source = args[:2]
    elif func is aten._to_copy.default and kwargs.get("non_blocking"):
        target, source = kwargs.get("device") or args[0].device, args[0]
        target = result if torch.device(target).type == "cpu" else simulated_device.DEVICE
    else:
        return
    if on_device(source) and isinstance(target, Tensor) and not on_device(target):
        _late(target)
    elif not on_device(source) and not (isinstance(target, Tensor) and not on_device(target)):
        _sent.append((source, digest(source), place_of(sys._getframe(1))))
        if len(_sent) > MOST:
            check(_sent.pop(0))


def pinned(self: Tensor, device: Any = None) -> Tensor:
    if on_device(self):
        raise RuntimeError(f"cannot pin a tensor on {self.device}: only dense CPU tensors can be pinned")
    copy: Any = self.clone()
    copy.is_pinned = lambda device=None: True
    return copy


def make_late() -> None:
    """From now on, make copies in this process late, and emulate pinned memory."""
    tolist = simulated_device.DeviceTensor.tolist

    def listed(self: Any) -> Any:
        wait()
        return tolist(self)

    simulated_device.DeviceTensor.tolist = listed  # type: ignore[method-assign]
    simulated_device.Backend.synchronize = lambda self, device=None: wait()  # type: ignore[attr-defined]
    torch.accelerator.synchronize = lambda device=None: wait()
    Tensor.pin_memory = pinned  # type: ignore[method-assign]
    simulated_device.BEFORE.append(_order)
    simulated_device.AFTER.append(_begin)
