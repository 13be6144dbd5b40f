"""Launch the processes of a command that has no Trainer, on one machine or under torchrun."""

import os
from typing import Any

from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException

from datamodules.arguments import within
from datamodules.files.limits import sentence

MOST_DEVICES = 64
"""Largest number of processes on a CPU with fewer cores; each process is started before the first of them works."""


def fabric_of(accelerator: str, devices: int, precision: Any = "32-true") -> Fabric:
    """Build a Fabric with one process for each device, without starting the processes.

    Args:
        accelerator: `auto`, `cpu`, `cuda` or `mps`.
        devices: number of devices on this machine; under torchrun, torchrun's setting is used instead.
        precision: Lightning's precision setting, which determines `autocast`.
    """
    within(1, max(MOST_DEVICES, os.cpu_count() or 1), devices=devices)
    here, everywhere = devices, devices
    if "TORCHELASTIC_RUN_ID" in os.environ:
        here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    strategy = "ddp" if everywhere > 1 else "auto"
    try:
        return Fabric(
            accelerator=accelerator,
            devices=here,
            num_nodes=everywhere // here,
            strategy=strategy,
            precision=precision,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ValueError(f"--accelerator {accelerator} --devices {devices}: {sentence(error)}") from error
