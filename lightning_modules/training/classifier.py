"""Validation, test and prediction of a classifier: the same for every method."""

from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from datamodules.batches import global_size, share
from lightning_modules.training.own_loaders import OwnLoaders


def accuracies(num_classes: int) -> MetricCollection:
    """Top-1 accuracy, and top-5 accuracy where there are classes enough for it to tell something."""
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False)
    }
    if num_classes >= 50:
        metrics["accuracy_top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro", validate_args=False)
    return MetricCollection(metrics)


class ClassifierSteps(OwnLoaders):
    """Gives a LightningModule its validation, test and prediction steps, on loaders of any kind (see `OwnLoaders`).

    The module says what `forward` is and owns `num_classes` and `metrics = accuracies(num_classes)`. Validation is
    measured against the given labels, as a user has no others; test labels are those of the test set.
    """

    num_classes: int
    metrics: MetricCollection

    def validation_step(self: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "test")

    def _measure(self: Any, batch: dict[str, Any], stage: str) -> None:
        self._log_measures(self(batch["image"]), batch, stage)

    def _log_measures(self: Any, logits: Tensor, batch: dict[str, Any], stage: str) -> None:
        self.metrics.update(logits, batch["label"])
        loss = share(batch) * nn.functional.cross_entropy(logits, batch["label"])
        size = global_size(batch)
        self.log(f"{stage}/cross_entropy", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        for name, metric in self.metrics.items():
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, batch_size=size)

    def predict_step(self: Any, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Returns `index` `[B]`, `probabilities` `[B, K]` and `prediction` `[B]`."""
        probabilities = self(batch["image"]).float().softmax(dim=1)
        return {"index": batch["index"], "probabilities": probabilities, "prediction": probabilities.argmax(dim=1)}
