"""Validation, test and prediction of a classifier, and plain training by cross-entropy.

All methods share them.
"""

from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassMatthewsCorrCoef

from datamodules.batches import global_batch_size, loss_weight, network_input
from lightning_modules.interfaces import Exported, ExportedInput, refuse_sigma
from lightning_modules.losses.mixing import SoftLabels, soft_cross_entropy
from lightning_modules.training.logging import log_training
from lightning_modules.training.own_loaders import OwnLoaders


class PositiveF1(MulticlassF1Score):
    """F1 of class 1 in binary classification, from logits `[B, 2]`."""

    def __init__(self) -> None:
        super().__init__(2, average="none", validate_args=False)

    def compute(self) -> Tensor:
        return super().compute()[1]


def accuracies(num_classes: int) -> MetricCollection:
    """Top-1 accuracy.

    With at least 50 classes, also top-5 accuracy. For two classes, also F1 of class 1 and the correlation of Matthews.
    Both suit imbalanced classes.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False)
    }
    if num_classes >= 50:
        metrics["accuracy_top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro", validate_args=False)
    if num_classes == 2:
        metrics |= {"f1": PositiveF1(), "matthews": MulticlassMatthewsCorrCoef(2, validate_args=False)}
    return MetricCollection(metrics)


def refuse_smoothed(soft_labels: SoftLabels | None, binary: bool) -> None:
    """Reject label smoothing combined with binary cross-entropy.

    Every class would count as correct.

    Raises:
        ValueError: if label smoothing and binary cross-entropy are both used.
    """
    if binary and soft_labels is not None and soft_labels.smoothing:
        raise ValueError(f"soft_labels.smoothing must be 0 with binary: true, got {soft_labels.smoothing}")


def cross_entropy_step(
    module: Any, batch: Any, soft_labels: SoftLabels | None, binary: bool, view: nn.Module | None = None
) -> dict[str, Tensor]:
    """Compute a training step with cross-entropy.

    Args:
        module: a classifier with `num_classes`.
        batch: labelled images or texts; texts are never mixed.
        soft_labels: settings of mixup and label smoothing; None disables both.
        binary: see `soft_cross_entropy`.
        view: augmentation of images before they are mixed; None does not augment.

    Returns:
        The value that a training step returns, with logits of unmixed images.
    """
    inputs, target = network_input(batch), batch["label"]
    inputs = inputs if view is None else view(inputs)
    if soft_labels is not None:
        inputs, target = soft_labels(inputs, target, module.num_classes)
    logits = module(inputs)
    all_right = soft_labels is None or soft_labels.all_right
    step = {"loss": log_training(module, batch, soft_cross_entropy(logits, target, binary, all_right))}
    return step if soft_labels is not None and soft_labels.mixes else {**step, "logits": logits.detach()}


class ClassifierSteps(OwnLoaders):
    """Validation, test and prediction steps of a classifier.

    Any dataloader works (see `OwnLoaders`). The module defines `forward` and owns `num_classes` and `metrics =
    accuracies(num_classes)`. Validation uses the given labels, which may be noisy, because users have no others.
    Testing uses the labels of the test set.
    """

    num_classes: int
    metrics: MetricCollection

    def validation_step(self: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self: Any, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor] | None:
        """Return `logits` `[B, K]`."""
        return self._measure(batch, "test")

    def _measure(self: Any, batch: dict[str, Any], stage: str) -> dict[str, Tensor] | None:
        logits = self(network_input(batch))
        self._log_measures(logits, batch, stage)
        return {"logits": logits}

    def _log_measures(self: Any, logits: Tensor, batch: dict[str, Any], stage: str) -> None:
        self.metrics.update(logits, batch["label"])
        loss = loss_weight(batch) * nn.functional.cross_entropy(logits, batch["label"])
        size = global_batch_size(batch)
        self.log(f"{stage}/cross_entropy", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        for name, metric in self.metrics.items():
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, batch_size=size)

    def predict_step(self: Any, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return `index` `[B]`, `probabilities` `[B, K]` and `prediction` `[B]`."""
        probabilities = self._probabilities(network_input(batch))
        return {"index": batch["index"], "probabilities": probabilities, "prediction": probabilities.argmax(dim=1)}

    def _probabilities(self: Any, inputs: Any) -> Tensor:
        return self(inputs).float().softmax(dim=1)

    def exported(self: Any, sigma: float | None = None) -> Exported:
        """Return the probabilities of the classes, as `predict` writes them. See `interfaces.Exportable`."""
        refuse_sigma(sigma, self)
        inputs = {"image": ExportedInput("B C H W")}
        return Exported(
            "classifier", self._probabilities, inputs, "probabilities", "B K", "probabilities of the classes"
        )
