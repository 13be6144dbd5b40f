"""Repeat the end of training if a run was killed after its last checkpoint but before training had ended.

If a run is resumed from a checkpoint at which all steps are complete, Lightning returns immediately and calls neither
`on_train_start` nor `on_train_end`. Files that a module exports in these hooks would then never be written.
"""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from experiments.lightning_internals import FitLoop


class ResumableEnd(FitLoop):
    """Fit loop that always calls the hooks at the start and at the end of training.

    It calls them even if no training step remains after the loaded checkpoint.
    """

    only_ends = False
    """Whether no training step remains after the loaded checkpoint."""

    @classmethod
    def of(cls, trainer: Trainer) -> None:
        """Replace a trainer's fit loop with a loop of this class."""
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
    """Return whether training was stopped before its last epoch. A resumed run must know this.

    A stop by a `Timer` is not included, because the `Timer` saves its own state, and a resumed run may have more time.
    """
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    left = [remaining for each in timers if (remaining := each.time_remaining()) is not None]
    return trainer.should_stop and all(remaining > 0 for remaining in left)
