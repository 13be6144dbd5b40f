"""Lightning's callbacks that a user gives, beside those that save a run's checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden


def fit_in(callbacks: Sequence[Callback], directory: Path) -> None:
    """Give each user's `ModelCheckpoint` without a folder the run directory's `checkpoints/own`, and reject twins.

    The folder is apart from the run's own checkpoints: `last.ckpt` of both would overwrite each other, and a run goes
    on from its own.

    Args:
        callbacks: those of `trainer.callbacks` and of the run.
        directory: the run directory.

    Raises:
        ValueError: if a checkpoint could not tell the states of two callbacks apart.
    """
    seen: set[str] = set()
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str((directory / "checkpoints" / "own").absolute())
        if not is_overridden("state_dict", callback, Callback):
            continue
        if callback.state_key in seen:
            raise ValueError(
                f"trainer.callbacks has two {type(callback).__name__} whose states a checkpoint cannot tell apart "
                f"({callback.state_key}): leave one out"
            )
        seen.add(callback.state_key)
