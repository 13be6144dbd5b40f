"""Length of a run that `max_epochs` or `max_steps` of the trainer limits."""

import math

from lightning.pytorch import Trainer


def num_epochs(trainer: Trainer) -> int | None:
    """Return the number of epochs until `max_epochs` or `max_steps` ends a run. None means that neither is set.

    An epoch counts even if `max_steps` ends the run within it. Training must have started. With several optimizers,
    each of their steps counts as one of `max_steps`.
    """
    limits = [trainer.max_epochs] if trainer.max_epochs is not None and trainer.max_epochs > 0 else []
    if trainer.max_steps > 0:
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        limits.append(1 if math.isinf(steps) else math.ceil(trainer.max_steps / math.ceil(steps)))
    return min(limits, default=None)


def is_last_epoch(trainer: Trainer) -> bool:
    """Return whether a run ends with its current epoch, by `max_epochs`, by `max_steps` or by a stop."""
    steps_end = 0 <= trainer.max_steps <= trainer.global_step
    return trainer.should_stop or steps_end or trainer.current_epoch + 1 == trainer.max_epochs
