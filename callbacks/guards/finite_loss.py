"""Stop a run with a non-finite loss before a bad checkpoint is written, without a host synchronisation in every step.

`FiniteLoss` treats a non-finite loss as an error, and `Divergence` treats it as a result.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.distributed.collectives import is_distributed, world_size

MOST_INDICES = 20
NEVER = torch.iinfo(torch.int64).max
AT_ONCE = 64
"""Number of batches after which their losses are checked together."""
MOST_HELD = 2**20
"""Maximum number of sample indices that are kept before losses are checked."""


class NonFiniteLoss(ValueError):
    """Raised for a NaN or infinite training loss. The message names step, epoch, samples and last good checkpoint."""


class FiniteLoss(Callback):
    """Stop training if the loss is NaN or infinite, and report the first bad step and the indices of its samples.

    The first bad loss over many steps is recorded on the device. All ranks read this record together every
    `log_every_n_steps` batches, before validation, at the end of an epoch, and before a checkpoint is written.
    Therefore, no checkpoint is written after a bad loss, and the last good checkpoint is kept. There is one exception:
    with `save_weights_only: true`, Lightning calls no hook before it writes a checkpoint. In this case, a checkpoint
    within an epoch may be bad, if it is written at most `log_every_n_steps` batches after the first bad loss. This
    callback is inactive if the trainer has a `Divergence`.
    """

    takes_over = False
    """Whether this callback deactivates a plain `FiniteLoss` of the same trainer."""

    def __init__(self) -> None:
        self._off = False
        self._steps: dict[int, int] = {}  # batch of the epoch -> optimizer steps before it, since the last read
        self._held: list[tuple[int, Tensor, Tensor]] = []  # batch of the epoch, loss and samples, not checked yet
        self._step = 0
        self._first: Tensor | None = None  # on the device: batch of the epoch with the first bad loss
        self._loss: Tensor | None = None
        self._index: Tensor | None = None  # samples of this batch, padded with -1
        self._checkpoint = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        every = [each for each in trainer.callbacks if isinstance(each, FiniteLoss)]  # type: ignore[attr-defined]
        self._off = any(each.takes_over for each in every if each is not self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps, self._held = {}, []
        self._first = self._loss = self._index = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = trainer.global_step
        self._checkpoint = _latest_checkpoint(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._off:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._note(loss.detach(), batch.get("index") if isinstance(batch, Mapping) else None, batch_idx)
        elif not pl_module.automatic_optimization:
            raise ValueError(f"training_step of {type(pl_module).__name__} must return its 'loss' for FiniteLoss")
        self._steps[batch_idx] = self._step
        if trainer.log_every_n_steps and (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._read(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._read(trainer)

    def _note(self, loss: Tensor, index: Tensor | None, batch_idx: int) -> None:
        """Keep a batch's loss and sample indices until the next check; each check covers several batches."""
        index = torch.zeros(0, dtype=torch.int64, device=loss.device) if index is None else index
        if self._held and self._held[-1][0] != batch_idx - 1:
            self._look()
        self._held.append((batch_idx, loss.mean(), index))  # the mean is a new tensor, which no later step overwrites
        if len(self._held) == AT_ONCE or len(self._held) * len(index) > MOST_HELD:
            self._look()

    def _look(self) -> None:
        """Find the first bad loss since the last check, and store the loss, its batch and its samples on the device."""
        if not self._held:
            return
        (first, *_), losses, indices = zip(*self._held, strict=True)
        self._held = []
        loss, size = torch.stack(losses), max(map(len, indices))
        if self._first is None or self._loss is None or self._index is None:
            self._first = torch.full((), NEVER, device=loss.device)
            self._loss, self._index = torch.zeros_like(loss[0]), indices[0].new_full((size,), -1)
        size = max(size, len(self._index))
        old, *new = (
            each if len(each) == size else F.pad(each, (0, size - len(each)), value=-1)
            for each in (self._index, *indices)
        )
        bad = self._is_bad(loss)
        place = bad.int().argmax()[None]  # position of the first bad loss
        is_first = bad.any() & (self._first == NEVER)
        self._first = torch.where(is_first, first + place[0], self._first)
        self._loss = torch.where(is_first, loss.index_select(0, place)[0], self._loss)
        self._index = torch.where(is_first, torch.stack(new).index_select(0, place)[0], old)

    def _is_bad(self, loss: Tensor) -> Tensor:
        return ~torch.isfinite(loss)

    def _error(self, message: str, step: int) -> NonFiniteLoss:
        return NonFiniteLoss(message)

    def _read(self, trainer: Trainer) -> None:
        """Read the record on all ranks, after they have run the same batches. Raise an error for a bad loss."""
        if not self._steps:
            return
        self._look()
        first, notes = NEVER, []
        if self._first is not None and self._loss is not None and (first := int(self._first)) < NEVER:
            notes = [(first, float(self._loss), self._samples())]
        if is_distributed():
            earliest = torch.tensor(first, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(earliest, op=torch.distributed.ReduceOp.MIN)
            first = int(earliest)
            if first < NEVER:
                gathered: list[Any] = [None] * world_size()
                torch.distributed.all_gather_object(gathered, notes)
                notes = [note for of_process in gathered for note in of_process]
        if first < NEVER:
            bad = [note for note in notes if note[0] == first]
            samples = sorted(index for _, _, indices in bad for index in indices)
            raise self._error(self._message(trainer, first, bad[0][1], samples), self._steps[first])
        self._steps = {}

    def _samples(self) -> list[int]:
        return [] if self._index is None else [index for index in self._index.tolist() if index >= 0]

    def _message(self, trainer: Trainer, batch_idx: int, loss: float, samples: list[int]) -> str:
        shown = ", ".join(map(str, samples[:MOST_INDICES])) + (", ..." if len(samples) > MOST_INDICES else "")
        of = f"{len(samples)} samples with index {shown}" if samples else "samples without an index"
        checkpoint = (
            f"the last good checkpoint is {self._checkpoint}"
            if self._checkpoint
            else "no checkpoint was written before"
        )
        return (
            f"the training loss became {loss} at step {self._steps[batch_idx]} (epoch {trainer.current_epoch}, batch "
            f"{batch_idx}) on {of}; {checkpoint}; inspect these samples, or try a smaller learning rate, gradient "
            f"clipping or precision 32-true"
        )


class Diverged(NonFiniteLoss):
    """Raised if the training loss diverges in a run for which divergence is a result and not a failure.

    Args:
        message: error message with the step, the loss, the samples and the last good checkpoint.
        step: first optimizer step with a diverging loss.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.test_metrics = {"test/diverged": 1.0, "test/diverged_step": float(step)}
        """Results of the run, which the command line writes instead of test results."""


class Divergence(FiniteLoss):
    """If the training loss diverges, end the run without an error; log `test/diverged` = 1 and `test/diverged_step`.

    `compare`, `claim` and sweeps count diverged runs. If a diverged run lacks a metric, the run is left out of the mean
    of this metric. Runs that do not diverge log `test/diverged` = 0 with their results. Losses are checked as in
    `FiniteLoss`, which this callback deactivates. If the trainer is called from Python, a diverged run raises
    `Diverged`.

    Args:
        beyond: threshold on the batch loss; larger losses count as divergence, like NaN and infinite losses.
    """

    takes_over = True

    def __init__(self, beyond: float = math.inf) -> None:
        super().__init__()
        if math.isnan(beyond):
            raise ValueError("beyond must be a number, got nan")
        self.beyond = beyond

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("test/diverged", 0.0, sync_dist=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Report divergence if NaN values caused a different error first, for example in an eigenvalue solver."""
        alone = not is_distributed()  # other ranks may not have failed
        if alone and isinstance(exception, Exception) and not isinstance(exception, NonFiniteLoss):
            self._read(trainer)

    def _is_bad(self, loss: Tensor) -> Tensor:
        return super()._is_bad(loss) | (loss > self.beyond)

    def _error(self, message: str, step: int) -> Diverged:
        return Diverged(message, step)


def _latest_checkpoint(trainer: Trainer) -> str:
    """Return the path of the first of these checkpoints that exists: last, best, resumed. If none exists, return ""."""
    for callback in trainer.checkpoint_callbacks:
        if path := getattr(callback, "last_model_path", "") or getattr(callback, "best_model_path", ""):
            return str(path)
    return str(trainer.ckpt_path or "")
