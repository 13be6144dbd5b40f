"""Stop a run on all ranks after a signal, at a point from which the run can be resumed.

The signal is SIGTERM, or the signal that SLURM sends before the time limit. Lightning's signal handler synchronises the
ranks and, for SLURM, saves a checkpoint. This causes a deadlock if the ranks are waiting for something else. Here, the
handler only sets a flag. During training, the ranks synchronise this flag after a batch. Outside of training, no
checkpoint is saved, and each rank ends immediately.
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
    """Signal handler of a trainer that records the signals that stop a run."""

    def __init__(self, trainer: Trainer) -> None:
        self.asked = False
        self.requeue = False
        self.in_step = False
        """Whether training steps are running. All ranks call `agree` after each step."""
        self._flag: tuple[Tensor, Any] | None = None
        super().__init__(trainer)
        handle_signals(trainer, self)

    def agree(self) -> bool:
        """Return whether any rank received a stop signal; all ranks must call this method after the same batch.

        The result is the same on all ranks. On GPUs, the result of the previous call is returned, to avoid a host sync.
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
        """End the run in this process."""
        self.asked, self.in_step = True, False
        raise SIGTERMException

    def ask_for_another_turn(self) -> None:
        """Requeue the job if SLURM sent the stop signal."""
        if self.requeue and self.trainer.is_global_zero:
            array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
            subprocess.run(["scontrol", "requeue", f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]])

    def _sigterm_notifier_fn(self, signum: Any, _: FrameType | None) -> None:
        launcher = self.trainer.strategy.launcher
        if not self.asked and launcher is not None:
            launcher.kill(signum)  # forwards the signal to the processes that this process started
        self.asked = True
        if not self.in_step:
            raise SIGTERMException

    def _slurm_sigusr_handler_fn(self, signum: Any, frame: FrameType | None) -> None:
        self.requeue = True
        self._sigterm_notifier_fn(signum, frame)
