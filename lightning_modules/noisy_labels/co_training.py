"""Training of two networks in turn, as methods do whose networks teach each other.

An epoch visits the training set twice (`data.passes_per_epoch: 2`): the first pass trains one network, the second the
other. A step leaves no gradient for the network at rest, so one optimizer with the parameters of both steps each as an
optimizer of its own would.
"""

from typing import Any

from lightning.pytorch import Trainer

from datamodules.loading.own_loaders import gives_positions
from lightning_modules.training.requirements import require_unused_parameters


def active_network(batch_idx: int, batches_per_epoch: int | float) -> int:
    """Choose the network that a step trains: 0 in the first half of an epoch's batches, 1 in the second."""
    return int(2 * batch_idx >= batches_per_epoch)


def check_alternation(trainer: Trainer, module: Any) -> None:
    """Refuses settings under which two networks cannot be trained in turn.

    Args:
        trainer: of the fit that is being set up.
        module: for its name in messages.

    Raises:
        ValueError: if an epoch is not two passes, gradients are accumulated, or DDP does not expect a network at rest.
    """
    name = type(module).__name__
    data = trainer.datamodule  # type: ignore[attr-defined]
    passes = getattr(data, "passes_per_epoch", None if gives_positions(data) else module.passes_per_epoch)
    if passes != 2:
        raise ValueError(f"{name} needs data.passes_per_epoch 2, one pass for each network, got {passes}")
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(f"{name} needs trainer.accumulate_grad_batches 1: a sum of gradients mixes its two networks")
    require_unused_parameters(trainer, name, "trains one network a step")
