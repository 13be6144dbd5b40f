"""Loss and metrics for the regression of one real number per text, such as the similarity score in STS-B."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

from datamodules.batches import global_batch_size, loss_weight, network_input
from lightning_modules.training.logging import log_training


def correlations() -> MetricCollection:
    """Return metrics that compute the Pearson and Spearman correlations between predictions and labels."""
    metrics: dict[str, Metric | MetricCollection] = {"pearson": PearsonCorrCoef(), "spearman": SpearmanCorrCoef()}
    return MetricCollection(metrics)


def squared_error_step(module: Any, batch: Any) -> dict[str, Tensor]:
    """Run a training step whose loss is the mean squared error of the network's outputs `[B, 1]`."""
    return {"loss": log_training(module, batch, F.mse_loss(module(network_input(batch))[:, 0], batch["label"]))}


def log_regression(module: Any, predicted: Tensor, batch: Any, stage: str) -> None:
    """In validation or test, log the mean squared error of predictions `[B]` and their correlations with the labels."""
    size, label = global_batch_size(batch), batch["label"]
    module.metrics.update(predicted, label)
    loss = loss_weight(batch) * F.mse_loss(predicted, label)
    module.log(f"{stage}/squared_error", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
    for name, metric in module.metrics.items():
        module.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, batch_size=size)
