"""Run the end of training again where a run was killed between its last checkpoint and that end.

Lightning returns at once from a checkpoint after which no step is left, and calls neither `on_train_start` nor
`on_train_end`: what a module exports there would never be written.
"""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from experiments.lightning_internals import FitLoop


class ResumableEnd(FitLoop):
    """Run the start and the end of training also where a loaded checkpoint leaves no step between them."""

    only_ends = False
    """Whether the checkpoint that was loaded leaves no step to train."""

    @classmethod
    def of(cls, trainer: Trainer) -> None:
        """Give a trainer this loop in place of its own."""
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
    """Tell whether something has ended training before its last epoch, which a resumed run has to know.

    A `Timer` keeps its time itself, and a resumed run may be given more of it.
    """
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    left = [remaining for each in timers if (remaining := each.time_remaining()) is not None]
    return trainer.should_stop and all(remaining > 0 for remaining in left)
