"""Arithmetic in single precision or better, also where the network computes in half precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def in_full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within it everything is computed in the precision that it has, whatever the trainer's.

    Args:
        device: of what is computed; on one without autocast, as `meta`, there is nothing to switch off.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 or better, for what needs more digits or range than half precision has."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def require_double(trainer: Any, name: str) -> None:
    """Refuse a run in another precision than 64 bit, before training or testing.

    Args:
        trainer: of the run.
        name: of the module that asks.

    Raises:
        ValueError: names the precision.
    """
    if trainer.precision != "64-true":
        raise ValueError(f"trainer.precision must be 64-true for {name}, got {trainer.precision}")
