"""Log what a training step computes, weighted so that the mean over processes is the mean over the global batch."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from datamodules.batches import global_size, share
from datamodules.loading.world import is_distributed


def log_training(module: LightningModule, batch: Any, loss: Tensor, **terms: Tensor) -> Tensor:
    """Weight a step's loss by this process's share of the batch and log it as `train/loss`.

    The epoch's mean is exact for uneven last batches and any number of processes.

    Args:
        module: the module that trains.
        batch: this process's part of the batch.
        loss: the mean loss of this process's samples, a number.
        terms: parts of the loss, means over the same samples; each is logged as `train/<its name>`.

    Returns:
        The weighted loss, for the optimizer.
    """
    weight, size = share(batch), global_size(batch)
    weighted = weight * loss
    values = {"loss": weighted, **{name: weight * value for name, value in terms.items()}}
    for name, value in values.items():
        module.log(f"train/{name}", value.detach(), on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
    return weighted


def log_same(module: LightningModule, name: str, value: float | Tensor) -> None:
    """Log a number that is the same on all processes, once an epoch; a tensor keeps all its digits.

    Args:
        module: the module that logs.
        name: the metric's name, `<stage>/<metric>`.
        value: the number, on any device.
    """
    value = value.detach() if isinstance(value, Tensor) else float(value)
    if isinstance(value, Tensor) and is_distributed():  # Lightning reduces it where it is, and NCCL not on the host
        value = value.to(module.device)
    module.log(name, value, on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True, batch_size=1)


def log_means(module: LightningModule, stage: str, means: Mapping[str, Mapping[str, float | Tensor]]) -> None:
    """Log means over sets, the same on all processes, as `<stage>/<set>/<measure>`.

    Args:
        module: the module that logs.
        stage: `val` or `test`.
        means: measures by the set's name; without a name, `<stage>/<measure>`.
    """
    for name, measures in means.items():
        for key, value in measures.items():
            log_same(module, f"{stage}/{name}/{key}" if name else f"{stage}/{key}", value)
