"""Resume a run in the epoch in which it was interrupted, and repeat the end of training if the run was killed there.

If a run is resumed from a checkpoint at which all steps are complete, Lightning returns immediately and calls neither
`on_train_start` nor `on_train_end`. Files that a module exports in these hooks would then never be written.
"""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from experiments.lightning_internals import FitLoop


class ResumableEnd(FitLoop):
    """Fit loop that always calls the hooks at the start and at the end of training, and counts each epoch once.

    It calls the hooks even if no training step remains after the loaded checkpoint. The number of complete epochs
    follows from the batches, whatever limits the run: epochs, steps, time or a callback. If a run ended within an
    epoch, and is resumed with a higher limit, it continues within this epoch.
    """

    only_ends = False
    """Whether no training step remains after the loaded checkpoint."""

    @classmethod
    def of(cls, trainer: Trainer) -> None:
        """Replace a trainer's fit loop with a loop of this class."""
        own = trainer.fit_loop
        trainer.fit_loop = cls(trainer, own.min_epochs, own.max_epochs)
        trainer.fit_loop.epoch_loop = own.epoch_loop

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        super().load_state_dict(state_dict, prefix)
        unfinished = not self.epoch_loop.batch_progress.is_last_batch
        counts: tuple[Any, Any] = (self.epoch_progress.total, self.epoch_progress.current)
        for count in counts:
            # Lightning also counts an epoch in which a run has ended, as complete.
            count.processed = min(count.processed, max(count.ready - unfinished, 0))
            count.completed = min(count.completed, count.processed)
        self.restarting = True

    def on_run_start(self) -> None:
        super().on_run_start()
        current: Any = self.epoch_progress.current
        if current.ready == current.processed:
            self.reset_restart_stage()  # the next epoch begins, even if the checkpoint is from within the last batch

    @property
    def done(self) -> bool:
        return self.only_ends or super().done

    @property
    def skip(self) -> bool:
        if self.trainer.limit_train_batches == 0 or not self._loaded_from_state_dict:
            return super().skip
        self.only_ends = self.done
        return False


def ended_early(trainer: Trainer) -> bool:
    """Return whether training was stopped before its last epoch. A resumed run must know this.

    A stop by a `Timer` is not included, because the `Timer` saves its own state, and a resumed run may have more time.
    """
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    left = [remaining for each in timers if (remaining := each.time_remaining()) is not None]
    return trainer.should_stop and all(remaining > 0 for remaining in left)
