"""Autocast on the simulated device, with PyTorch's operator lists for CUDA.

    mixed_precision.enable()    # after simulated_device.register()

A Trainer with `16-mixed` then computes in float16 with a gradient scaler, and one with `bf16-mixed` in bfloat16.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from tests.conformance import simulated_device
from tests.conformance.simulated_device import aten, on_device

HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
LISTS = {"LOWER_PRECISION_FP": "lower", "FP32": "single", "FP32_SET_OPT_DTYPE": "single", "PROMOTE": "widest"}
OPERATOR = re.compile(r"_\((\w+)(?:, (\w+))?\)")
REFUSED = "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast"


def listed(name: str) -> list[Any]:
    """Read a list of operators from PyTorch's header."""
    _, _, rest = HEADER.read_text().partition(f"#define AT_FORALL_{name}(_)")
    lines = []
    for line in rest.splitlines():
        lines.append(line.rstrip("\\"))
        if not line.endswith("\\"):
            break
    found = []
    for operator, overload in OPERATOR.findall("".join(lines)):
        packet = getattr(aten, operator, None)
        if packet is not None and (overload or "default") in packet.overloads():
            found.append(getattr(packet, overload or "default"))
    assert found, f"{HEADER} has changed"
    return found


def is_cast(value: Any) -> bool:
    return on_device(value) and value.is_floating_point() and value.dtype != torch.float64


def autocast(policy: str, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute an operator in the precision that `policy`, the name of autocast's list, specifies."""
    kind = simulated_device.DEVICE.type
    cast = [leaf for leaf in tree_leaves((args, kwargs)) if is_cast(leaf)]
    dtype = {"lower": torch.get_autocast_dtype(kind), "single": torch.float32}.get(policy)
    if policy == "widest":
        dtype = torch.float32 if any(each.dtype == torch.float32 for each in cast) else cast[0].dtype if cast else None
    with torch.autocast(kind, enabled=False):
        if func is aten.binary_cross_entropy.default:
            raise RuntimeError(REFUSED)

        def in_dtype(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and is_cast(value) else value

        return func(*tree_map(in_dtype, args), **tree_map(in_dtype, kwargs))


def enable() -> None:
    """Until the process ends, let Trainers use mixed precision on the device."""
    rest, library = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name, policy in LISTS.items():
        for func in listed(name):
            library.impl(func, partial(autocast, policy, func), "AutocastPrivateUse1")
    func = aten.binary_cross_entropy.default
    library.impl(func, partial(autocast, "refused", func), "AutocastPrivateUse1")
    chosen, began = _AcceleratorConnector._check_and_init_precision, MixedPrecision.__init__

    def of_the_device(self: Any) -> Any:
        flag, self._accelerator_flag = self._accelerator_flag, simulated_device.DEVICE.type  # a CPU has no fp16
        try:
            return chosen(self)
        finally:
            self._accelerator_flag = flag

    def mixed(self: Any, precision: Any, device: str, scaler: Any = None) -> None:
        kind = simulated_device.DEVICE.type
        if precision == "16-mixed":
            scaler = torch.amp.GradScaler(kind)
        began(self, precision, kind, scaler)

    simulated_device._KEPT.extend((rest, library))
    _AcceleratorConnector._check_and_init_precision = of_the_device  # type: ignore[method-assign]
    MixedPrecision.__init__ = mixed  # type: ignore[method-assign]
