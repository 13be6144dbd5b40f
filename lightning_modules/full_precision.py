"""Helpers for computation in single precision or better, even if the run uses mixed precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def in_full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context manager that disables autocast, so that operations use the dtypes of their input tensors.

    Args:
        device: device of the computation; the context manager has no effect on devices without autocast, such as
            `meta`.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def surrounding_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context manager that restores the present state of autocast inside a block of `in_full_precision`.

    Args:
        device: device of the computation.
    """
    if torch.amp.is_autocast_available(device.type):
        dtype, enabled = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
        return torch.autocast(device.type, dtype=dtype, enabled=enabled)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Convert a tensor to at least float32, for computations that need more precision or range than 16-bit types."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def require_double(trainer: Any, name: str) -> None:
    """Raise an error before training or testing if the precision of the run is not 64 bit.

    Args:
        trainer: trainer of the run.
        name: name of the module that needs double precision.

    Raises:
        ValueError: if the precision is not 64 bit; the message names the precision.
    """
    if trainer.precision != "64-true":
        raise ValueError(f"trainer.precision must be 64-true for {name}, got {trainer.precision}")
