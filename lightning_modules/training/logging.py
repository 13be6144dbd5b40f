"""Log losses and metrics.

Each rank's loss is weighted so that the mean over ranks equals the mean over all samples of the global batch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from datamodules.batches import global_batch_size, loss_weight
from datamodules.distributed.collectives import is_distributed
from lightning_modules.full_precision import at_least_float32


class EpochMean(Metric):
    """Mean of per-batch values over an epoch and over all ranks, weighted by the number of samples.

    One call of `self.log` takes as long as a forward pass of a small network. To save this time, the metric is passed
    to `self.log` only once per epoch; after that, training steps only add their values to the metric, on the device.
    Lightning computes and resets the metric at the end of the epoch. The states of the metric have the same names and
    dtypes as the states of Lightning's own means.
    """

    value: Tensor
    cumulated_batch_size: Tensor

    def __init__(self) -> None:
        super().__init__(compute_with_cache=False)
        self.add_state("value", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("cumulated_batch_size", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.logged = False
        """Whether the metric has been passed to `self.log` in this epoch."""

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # skips torch's registration, because no state is a parameter or module

    def add(self, value: Tensor, size: int) -> None:
        """Include the mean value of a batch, a scalar tensor, with the weight `size`.

        The first value of each epoch must be added by `update`, not by `add`.
        """
        self.value = self.value + at_least_float32(value) * size
        self.cumulated_batch_size = self.cumulated_batch_size + size

    update = add

    def compute(self) -> Tensor:
        return self.value / self.cumulated_batch_size

    def reset(self) -> None:
        super().reset()
        self.logged = False


def _log_mean(module: LightningModule, name: str, value: Tensor, size: int) -> None:
    """Include the mean value of a batch, with the weight `size`, in the mean of the epoch."""
    try:
        trainer = module.trainer
    except RuntimeError:  # the module has no trainer
        trainer = None
    if not isinstance(trainer, Trainer):
        module.log(name, value, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return
    # The trainer keeps the metrics, because the state dict must not contain them, and a new run begins with new ones.
    of_trainer: dict[str, EpochMean] = vars(trainer).setdefault("epoch_means", {})
    mean = of_trainer.get(name)
    if mean is None:
        with module.device:  # otherwise, copying the states would synchronise with the host
            mean = of_trainer[name] = EpochMean()
    if not mean.logged:
        mean.to(module.device)
        module.log(name, mean, on_step=False, on_epoch=True, batch_size=1, metric_attribute=name)
        mean.logged = True
        mean.update(value, size)
    else:
        mean.add(value, size)


def log_training(module: LightningModule, batch: Any, loss: Tensor, **terms: Tensor) -> Tensor:
    """Log the loss of a training step, and return it, weighted according to this rank's share of the global batch.

    The loss is logged as `train/loss`. Its mean over the epoch is exact for any number of ranks, even if the ranks have
    different numbers of samples in the last batch.

    Args:
        module: the module that is trained.
        batch: this rank's part of the batch.
        loss: mean loss over the samples on this rank, a scalar.
        terms: terms of the loss, each a mean over the samples on this rank; the term `name` is logged as
            `train/<name>`.

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
    """Log one value for a whole epoch; it must be the same on all ranks.

    A tensor is not converted to a different precision.

    Args:
        module: the module that logs.
        name: metric name, `<stage>/<metric>`.
        value: the value, on any device.
    """
    value = value.detach() if isinstance(value, Tensor) else float(value)
    if isinstance(value, Tensor) and is_distributed():  # Lightning reduces on the value's device, and NCCL needs a GPU
        value = value.to(module.device)
    module.log(name, value, on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True, batch_size=1)


def log_means(module: LightningModule, stage: str, means: Mapping[str, Mapping[str, float | Tensor]]) -> None:
    """Log the mean metrics of each dataset as `<stage>/<dataset>/<metric>`.

    The metrics must be the same on all ranks.

    Args:
        module: the module that logs.
        stage: `val` or `test`.
        means: for each dataset name, a mapping from metric names to means. Metrics of a dataset with an empty name are
            logged as `<stage>/<metric>`.
    """
    for name, measures in means.items():
        for key, value in measures.items():
            log_same(module, f"{stage}/{name}/{key}" if name else f"{stage}/{key}", value)
