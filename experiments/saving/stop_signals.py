"""Stop a run on all ranks after a signal, at a point where the run can be resumed.

The signal is SIGTERM, or the signal of SLURM before the time limit. Lightning synchronises the ranks and saves a
checkpoint for SLURM inside the signal handler. This deadlocks if the ranks wait for something else. Here the handler
only sets a flag. During training, the ranks agree on the flag after a batch. Outside of training, nothing is saved, and
each rank ends at once.
"""

import os
import subprocess
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from experiments.lightning_internals import SignalConnector, handle_signals


class StopSignals(SignalConnector):
    """Record the signals that stop a run.

    Args:
        trainer: trainer whose own signal handling is replaced.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.asked = False
        self.requeue = False
        self.in_step = False
        """Whether training steps are running, after each of which the ranks call `agreed`."""
        self._flag: tuple[Tensor, Any] | None = None
        super().__init__(trainer)
        handle_signals(trainer, self)

    def agreed(self) -> bool:
        """Whether a signal asked any rank to stop. All ranks call this after the same batch and get the same answer.

        On GPUs, this returns the answer of the previous call, to avoid a host sync.
        """
        if self.trainer.world_size == 1:
            return self.asked
        device = self.trainer.strategy.root_device
        flag = torch.full((), int(self.asked), dtype=torch.int32, device=device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        if device.type != "cuda":
            return bool(flag)
        before, event = self._flag, torch.cuda.Event()
        self._flag = (torch.empty((), dtype=torch.int32, pin_memory=True).copy_(flag, non_blocking=True), event)
        event.record()
        if before is None:
            return False
        before[1].synchronize()
        return bool(before[0])

    def stop(self) -> None:
        """End the run in this process.

        Raises:
            SIGTERMException: always.
        """
        self.asked, self.in_step = True, False
        raise SIGTERMException

    def ask_for_another_turn(self) -> None:
        """Requeue the job if SLURM asked to stop."""
        if self.requeue and self.trainer.is_global_zero:
            array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
            subprocess.run(["scontrol", "requeue", f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]])

    def _sigterm_notifier_fn(self, signum: Any, _: FrameType | None) -> None:
        launcher = self.trainer.strategy.launcher
        if not self.asked and launcher is not None:
            launcher.kill(signum)  # forward to the processes started by this one
        self.asked = True
        if not self.in_step:
            raise SIGTERMException

    def _slurm_sigusr_handler_fn(self, signum: Any, frame: FrameType | None) -> None:
        self.requeue = True
        self._sigterm_notifier_fn(signum, frame)
