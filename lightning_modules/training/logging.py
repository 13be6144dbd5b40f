"""Log what a training step computes, weighted so that the mean over processes is the mean over the global batch."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from datamodules.batches import global_batch_size, loss_weight
from datamodules.distributed.collectives import is_distributed
from lightning_modules.full_precision import at_least_float32


class EpochMean(Metric):
    """Mean over an epoch of what its batches add, weighted by their samples, over all processes.

    A call of `self.log` takes as long as a small network's forward pass. So Lightning is given this once an epoch, and
    computes and resets it at the epoch's end. A step only adds to it, on the device. The states have the names and
    types of those of Lightning's own means.
    """

    value: Tensor
    cumulated_batch_size: Tensor

    def __init__(self) -> None:
        super().__init__(compute_with_cache=False)
        self.add_state("value", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("cumulated_batch_size", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.logged = False
        """Whether Lightning has it for this epoch."""

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # no state is a parameter or a module, which torch would look for

    def add(self, value: Tensor, size: int) -> None:
        """Add a batch's mean, a number, which counts for `size` samples; the first of an epoch is an `update`."""
        self.value = self.value + at_least_float32(value) * size
        self.cumulated_batch_size = self.cumulated_batch_size + size

    update = add

    def compute(self) -> Tensor:
        return self.value / self.cumulated_batch_size

    def reset(self) -> None:
        super().reset()
        self.logged = False


_means: WeakKeyDictionary[Trainer, dict[str, EpochMean]] = WeakKeyDictionary()
"""Of each trainer, by name. They are no modules within the one that trains, whose state dict does not hold them."""


def _log_mean(module: LightningModule, name: str, value: Tensor, size: int) -> None:
    """Add a batch's mean, which counts for `size` samples, to that of the epoch."""
    try:
        trainer = module.trainer
    except RuntimeError:  # it has none
        trainer = None
    if not isinstance(trainer, Trainer):
        module.log(name, value, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return
    of_trainer = _means.setdefault(trainer, {})
    mean = of_trainer.get(name)
    if mean is None:
        with module.device:  # a copy of its states would have the host wait
            mean = of_trainer[name] = EpochMean()
    if not mean.logged:
        mean.to(module.device)
        module.log(name, mean, on_step=False, on_epoch=True, batch_size=1, metric_attribute=name)
        mean.logged = True
        mean.update(value, size)
    else:
        mean.add(value, size)


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
    weight, size = loss_weight(batch), global_batch_size(batch)
    weighted = loss if weight == 1 else weight * loss
    _log_mean(module, "train/loss", weighted.detach(), size)
    for name, value in terms.items():
        _log_mean(module, f"train/{name}", value.detach() * weight, size)
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
