"""Checks that the trainer's settings suit an algorithm.

The checks run before training starts.
"""

from typing import Any

from lightning.pytorch.strategies import DDPStrategy

from lightning_modules.interfaces import RowBatches, data_with
from lightning_modules.lightning_internals import finds_unused_parameters


def require_trainer(module: Any, what: str, remedy: str) -> Any:
    """Return the trainer of a module.

    Args:
        module: LightningModule.
        what: method that needs the trainer, and why: a phrase that follows the class name in the error message.
        remedy: call that needs no trainer.
    """
    try:
        return module.trainer
    except RuntimeError:
        raise ValueError(f"{type(module).__name__}.{what} of a Trainer: without a Trainer, call {remedy}") from None


def require_all_rows(trainer: Any, name: str) -> None:
    """Reject a batch size below the size of the training set.

    Args:
        trainer: trainer of the run.
        name: class name of the module.
    """
    data = data_with(trainer, RowBatches)
    if data is not None and not data.whole:
        raise ValueError(
            f"data.batch_size must be left out for {name}, whose steps use all rows, got {data.batch_size}"
        )


def require_one_process(trainer: Any, name: str) -> None:
    """Reject a trainer with more than one process, for algorithms that need all data in one process.

    Args:
        trainer: trainer of the run.
        name: class name of the module.
    """
    if trainer.world_size > 1:
        raise ValueError(
            f"{name} works in one process, but trainer.devices and num_nodes make {trainer.world_size} processes: run "
            f"seeds in parallel instead, with train.py compare --seeds 0 1 2 --jobs 3"
        )


def require_unused_parameters(trainer: Any, name: str, what: str) -> None:
    """Reject a DDP strategy that treats parameters without a gradient as an error.

    Args:
        trainer: trainer of the run.
        name: class name of the module.
        what: reason why some parameters do not receive a gradient: a verb phrase that follows `name` in the error
            message.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and not finds_unused_parameters(strategy):
        raise ValueError(f"{name} {what}: trainer.strategy must be ddp_find_unused_parameters_true")
