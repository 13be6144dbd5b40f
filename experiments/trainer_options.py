"""Refuse options of the Trainer that a module does not take, each in one sentence that names the key."""

import re

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden


def refuse_options(module: LightningModule, trainer: Trainer) -> None:
    """Check what Lightning refuses in words of its own, before it does.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """
    name = type(module).__name__
    if not module.automatic_optimization:
        if trainer.gradient_clip_val:
            raise ValueError(
                f"trainer.gradient_clip_val must be left out for {name}, which takes its optimizer steps itself "
                f"and clips no gradients, got {trainer.gradient_clip_val}"
            )
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches must be 1 for {name}, which takes its optimizer steps itself, "
                f"got {trainer.accumulate_grad_batches}"
            )
    if isinstance(trainer.strategy, ModelParallelStrategy) and not is_overridden("configure_model", module):
        raise ValueError(
            f"trainer.strategy ModelParallelStrategy shards modules that override configure_model, and {name} does not"
        )


UNUSED = "Expected to have finished reduction in the prior iteration|parameters that were not used in producing"


def unused_parameters(error: BaseException) -> str | None:
    """Say in one sentence that parameters had no gradient under a strategy that wants one; None otherwise."""
    if not isinstance(error, RuntimeError) or not re.search(UNUSED, str(error)):
        return None
    return (
        "a step gave some parameters no gradient, which trainer.strategy ddp does not allow: "
        "use trainer.strategy ddp_find_unused_parameters_true"
    )
