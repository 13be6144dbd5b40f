"""Make the user's callbacks compatible with the checkpoints that every run saves."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden


def fit_in(callbacks: Sequence[Callback], directory: Path) -> None:
    """If the user's `ModelCheckpoint` has no folder, set its folder to `checkpoints/own`. Reject duplicate callbacks.

    A run is resumed from the `last.ckpt` that it saves itself. A separate folder avoids a conflict with a `last.ckpt`
    that the user's callback saves.

    Args:
        callbacks: callbacks in `trainer.callbacks`, and those that every run has.
        directory: run directory.
    """
    seen: set[str] = set()
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str((directory / "checkpoints" / "own").absolute())
        if not is_overridden("state_dict", callback, Callback):
            continue
        if callback.state_key in seen:
            raise ValueError(
                f"trainer.callbacks has two {type(callback).__name__} with the same state key in a checkpoint "
                f"({callback.state_key}): remove one"
            )
        seen.add(callback.state_key)
