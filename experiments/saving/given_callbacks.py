"""Make a user's callbacks compatible with the run's own checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden


def fit_in(callbacks: Sequence[Callback], directory: Path) -> None:
    """Let a `ModelCheckpoint` of the user without a folder save to `checkpoints/own`. Reject duplicate callbacks.

    A run resumes from its own `last.ckpt`. A separate folder keeps this file apart from a `last.ckpt` of the user.

    Args:
        callbacks: the callbacks of `trainer.callbacks` and those of the run itself.
        directory: the run directory.

    Raises:
        ValueError: if two callbacks have the same key in a checkpoint.
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
