"""Arithmetic that autocast leaves alone."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def in_full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within it everything is computed in the precision that it has, whatever the trainer's.

    Args:
        device: of what is computed; on one without autocast, as `meta`, there is nothing to switch off.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
