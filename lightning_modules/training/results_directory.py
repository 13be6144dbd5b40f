"""The directory for the results of callbacks that test single images."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Trainer


@contextmanager
def results_directory(trainer: Trainer) -> Iterator[Path]:
    """Yield the run directory, for use inside a `with` block.

    With `fast_dev_run`, a temporary directory is yielded instead, and removed when the block ends.
    """
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        yield Path(trainer.log_dir or trainer.default_root_dir)  # log_dir broadcasts: all ranks must read it
        return
    directory = trainer.strategy.broadcast(tempfile.mkdtemp() if trainer.is_global_zero else None)
    try:
        yield Path(str(directory))
        trainer.strategy.barrier("the results are read")
    finally:
        if trainer.is_global_zero:
            shutil.rmtree(str(directory))
