"""Alternating training of two networks, for methods in which the networks supervise each other.

An epoch consists of two passes over the training set (`data.loading.passes_per_epoch: 2`). The first pass trains the
first network, and the second pass trains the second network. The parameters of the inactive network have no gradients.
A single optimizer for both networks therefore acts like two separate optimizers.
"""

from typing import Any

from lightning.pytorch import Trainer

from datamodules.loading.own_loaders import gives_positions
from lightning_modules.training.requirements import require_unused_parameters


def active_network(batch_idx: int, batches_per_epoch: int | float) -> int:
    """Return the index of the network to train: 0 for the first half of an epoch's batches, 1 for the second half."""
    return int(2 * batch_idx >= batches_per_epoch)


def check_alternation(trainer: Trainer, module: Any) -> None:
    """Reject settings with which two networks cannot be trained alternately.

    Args:
        trainer: trainer of the current fit.
        module: module with the two networks; error messages contain the name of its class.

    Raises:
        ValueError: if an epoch does not have two passes, if gradients are accumulated, or if DDP does not allow unused
            parameters.
    """
    name = type(module).__name__
    data = trainer.datamodule  # type: ignore[attr-defined]
    passes = getattr(data, "passes_per_epoch", None if gives_positions(data) else module.passes_per_epoch)
    if passes != 2:
        raise ValueError(f"{name} needs data.loading.passes_per_epoch 2, one pass for each network, got {passes}")
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(f"{name} needs trainer.accumulate_grad_batches 1: a sum of gradients mixes its two networks")
    require_unused_parameters(trainer, name, "trains one network per step")
