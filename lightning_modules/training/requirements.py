"""Requirements of algorithms that see all of their data at once, refused by name before training."""

from typing import Any

from lightning.pytorch.strategies import DDPStrategy

from lightning_modules.lightning_internals import finds_unused_parameters


def require_all_rows(trainer: Any, name: str) -> None:
    """Refuse data whose training batches are not the whole set.

    Args:
        trainer: of the run.
        name: of the module that asks.

    Raises:
        ValueError: names the key.
    """
    if not getattr(trainer.datamodule, "whole", True):
        raise ValueError(
            f"data.batch_size must be left out for {name}, each of whose steps is of all rows, "
            f"got {trainer.datamodule.batch_size}"
        )


def require_one_process(trainer: Any, name: str) -> None:
    """Refuse several processes, where one must hold what an algorithm works on whole.

    Args:
        trainer: of the run.
        name: of the module that asks.

    Raises:
        ValueError: says to run seeds in parallel instead.
    """
    if trainer.world_size > 1:
        raise ValueError(
            f"{name} works in one process, and trainer.devices and num_nodes make {trainer.world_size}: run seeds in "
            f"parallel instead, by train.py compare --seeds 0 1 2 --jobs 3"
        )


def require_unused_parameters(trainer: Any, name: str, what: str) -> None:
    """Refuse a DDP that takes it for an error that some parameters get no gradient in a step.

    Args:
        trainer: of the run.
        name: of the module that asks.
        what: the module does, so that it needs this.

    Raises:
        ValueError: names the strategy that does not.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and not finds_unused_parameters(strategy):
        raise ValueError(f"{name} {what}: trainer.strategy must be ddp_find_unused_parameters_true")
