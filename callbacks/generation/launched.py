"""Launch the processes of a command that has no Trainer, on one machine or under torchrun."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from datamodules.arguments import within
from datamodules.files.limits import sentence

if TYPE_CHECKING:
    from lightning.fabric import Fabric

MOST_DEVICES = 64
"""Largest number of processes on a CPU with fewer cores; each process is started before the first of them works."""


@dataclass
class OneProcess:
    """The members of Fabric that a command uses, for one process in single precision."""

    device: torch.device
    is_global_zero: bool = True
    autocast = nullcontext

    def launch(self) -> None:
        """Do nothing, because no other process is needed."""


def fabric_of(accelerator: str, devices: int, precision: Any = "32-true") -> "Fabric | OneProcess":
    """Build a Fabric with one process for each device, without starting the processes.

    One process on a known device does not need Fabric. Importing Lightning would take seconds.

    Args:
        accelerator: `auto`, `cpu`, `cuda` or `mps`.
        devices: number of devices on this machine; under torchrun, torchrun's setting is used instead.
        precision: Lightning's precision setting, which determines `autocast`.
    """
    within(1, max(MOST_DEVICES, os.cpu_count() or 1), devices=devices)
    if devices == 1 and precision == "32-true" and not {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS"} & os.environ.keys():
        there = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}
        kind = next(name for name in there if there[name]) if accelerator == "auto" else accelerator
        if there.get(kind):
            return OneProcess(torch.device(kind) if kind == "cpu" else torch.device(kind, 0))
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

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
