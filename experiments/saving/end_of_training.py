"""Repeat the end of training if a run was killed between its last checkpoint and the end.

When a run resumes from a checkpoint with no steps left, Lightning returns at once and calls neither `on_train_start`
nor `on_train_end`. Files that a module exports in these hooks would then never be written.
"""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from experiments.lightning_internals import FitLoop


class ResumableEnd(FitLoop):
    """Fit loop that always calls the hooks at the start and the end of training.

    This includes runs whose loaded checkpoint has no steps left.
    """

    only_ends = False
    """Whether the loaded checkpoint leaves no step to train."""

    @classmethod
    def of(cls, trainer: Trainer) -> None:
        """Replace a trainer's fit loop by this one."""
        own = trainer.fit_loop
        trainer.fit_loop = cls(trainer, own.min_epochs, own.max_epochs)
        trainer.fit_loop.epoch_loop = own.epoch_loop

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
    """Return whether training was stopped before its last epoch; a resumed run must know this.

    A stop by a `Timer` does not count. The `Timer` saves its own state, and a resumed run may get more time.
    """
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    left = [remaining for each in timers if (remaining := each.time_remaining()) is not None]
    return trainer.should_stop and all(remaining > 0 for remaining in left)
