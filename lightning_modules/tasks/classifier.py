"""Validation, test and prediction steps of all classifiers, and a training step with plain cross-entropy."""

from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassMatthewsCorrCoef

from datamodules.batches import global_batch_size, loss_weight, network_input
from lightning_modules.interfaces import Exported, ExportedInput, refuse_sigma
from lightning_modules.losses.mixing import SoftLabels, soft_cross_entropy
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_training
from lightning_modules.training.own_loaders import OwnLoaders


class PositiveF1(MulticlassF1Score):
    """F1 score of class 1 in binary classification, computed from logits `[B, 2]`."""

    def __init__(self) -> None:
        super().__init__(2, average="none", validate_args=False)

    def compute(self) -> Tensor:
        return super().compute()[1]


def accuracies(num_classes: int) -> MetricCollection:
    """Create the metrics of a classifier.

    The metrics are the top-1 accuracy and, with at least 50 classes, the top-5 accuracy. For two classes, the F1 score
    of class 1 and the Matthews correlation coefficient are added, because they are suitable for imbalanced classes.
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
    """Reject the combination of label smoothing and binary cross-entropy.

    It would make every class count as correct.
    """
    if binary and soft_labels is not None and soft_labels.smoothing:
        raise ValueError(f"soft_labels.smoothing must be 0 with binary: true, got {soft_labels.smoothing}")


def cross_entropy_step(
    module: Any, batch: Any, soft_labels: SoftLabels | None, binary: bool, view: nn.Module | None = None
) -> dict[str, Tensor]:
    """Run a training step with the cross-entropy.

    Args:
        module: LightningModule of a classifier, with the attribute `num_classes`.
        batch: labelled images or texts. Texts are never mixed.
        soft_labels: settings of mixup and label smoothing; None disables both.
        binary: see `soft_cross_entropy`.
        view: augmentation that is applied to images before they are mixed; None means no augmentation.

    Returns:
        The dict that a training step returns. It contains `logits` only if images are not mixed.
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
    """Mixin with the validation, test and prediction steps of a classifier.

    The module defines `forward`, and has the attributes `num_classes` and `metrics = accuracies(num_classes)`. Any
    dataloader works (see `OwnLoaders`). Validation uses the labels of the dataset, which may be noisy, because clean
    labels are not available in practice. Tests use the labels of the test set.
    """

    num_classes: int
    metrics: MetricCollection

    def validation_step(self: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self: Any, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor] | None:
        """Log the metrics of a batch, and return a dict with `logits`, `[B, K]`."""
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
        """Return a dict of three tensors: `index` `[B]`, `probabilities` `[B, K]` and `prediction` `[B]`."""
        probabilities = self.classify(network_input(batch))
        return {"index": batch["index"], "probabilities": probabilities, "prediction": probabilities.argmax(dim=1)}

    @evaluate_without_gradients
    def classify(self: Any, image: Any) -> Tensor:
        """Predict the class probabilities, `[B, K]` in float32, of images in [0, 1], or of the tokens of texts.

        Examples:
            >>> from lightning_modules.networks.mlp import MLP
            >>> from lightning_modules.noisy_labels.elr import ELR
            >>> model = ELR(MLP(64, [16], 10), num_classes=10)
            >>> model.classify(torch.full((4, 1, 8, 8), 0.5)).sum(dim=1).allclose(torch.ones(4))
            True
        """
        return self(image).float().softmax(dim=1)

    def export_function(self: Any, sigma: float | None = None) -> Exported:
        """Export, as a function, the class probabilities that `predict` writes. See `interfaces.Exportable`."""
        refuse_sigma(sigma, self)
        inputs = {"image": ExportedInput("B C H W")}
        return Exported("classifier", self.classify, inputs, "probabilities", "B K", "probabilities of the classes")
