"""LightningModule of ADELE; the package docstring describes the method."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, positive, within
from datamodules.batches import LabelledMaskBatch, global_batch_size
from datamodules.distributed.collectives import broadcast_buffers
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import LabelStore, TrainingImageSource, require
from lightning_modules.method_module import MethodModule
from lightning_modules.noisy_labels.adele.correction import EvaluationPassCorrection, TrainingPassCorrection
from lightning_modules.noisy_labels.adele.label_rules import (
    BACKGROUND,
    categories_due,
    confident_prediction,
    merged_label,
    updated_label,
)
from lightning_modules.noisy_labels.adele.multi_scale import (
    multi_scale_consistency,
    multi_scale_cross_entropy,
    multi_scale_logits,
)
from lightning_modules.noisy_labels.adele.training_predictions import TrainingPredictions
from lightning_modules.optim.optimizers import constant, sgd, with_schedule
from lightning_modules.optim.parameter_groups import learning_rate_groups, scale_learning_rates
from lightning_modules.tasks.segmenter import SegmenterSteps, confusion
from lightning_modules.training.evaluation_mode import in_evaluation_mode
from lightning_modules.training.logging import log_training


class ADELE(SegmenterSteps, MethodModule):
    """Train a segmenter on noisy masks, and correct the labels of each category after its early learning has ended.

    The module needs a DataModule whose labels can be corrected, and the callback
    `callbacks.early_learning.EarlyLearning`. The settings of the callback are `min_jump: 0.1, reference: current,
    background: 0` for SegTHOR, and `horizon: 16, interval: 100, background: 0` for VOC. Ablations: `consistency_weight:
    0` and `scales: [1.0]` disable the regularisation, `correction: null` the correction.

    Args:
        network: segmentation network for images `[B, C, H, W]` of any size. The logits `[B, num_classes, h, w]` may be
            smaller than the image.
        num_classes: number K of categories, including the background (category 0).
        scales: image scales in training; must include 1.
        consistency_weight: weight lambda of the loss for consistency over scales.
        consistency_threshold: threshold rho. An image is regularised only if the largest probability over its pixels is
            at least rho.
        divide_by_scales: whether to divide the loss by the number of scales, as in the SegTHOR experiments.
        learn_scale_weights: whether to train the weights w of the scales, as for VOC. If false, all weights are equal,
            as for SegTHOR.
        correction: settings of the label correction; None disables it.
        new_layers: names of submodules without pretrained weights. Their learning rate is ten times that of the other
            layers (see `learning_rate_groups`).
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule. It is stepped every epoch, or every step if it has `interval = "step"`.
    """

    scale_weights: Tensor
    ended: Tensor
    corrected: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        scales: Sequence[float] = (0.7, 1.0, 1.5),
        consistency_weight: float = 1.0,
        consistency_threshold: float = 0.8,
        divide_by_scales: bool = True,
        learn_scale_weights: bool = False,
        correction: TrainingPassCorrection | EvaluationPassCorrection | None = None,
        new_layers: Sequence[str] = (),
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(scales=min(scales, default=0.0))
        at_least(0, consistency_weight=consistency_weight)
        within(0, 1, consistency_threshold=consistency_threshold)
        if 1 not in scales:
            raise ValueError(f"scales must include 1, got {list(scales)}")
        learning_rate_groups(network, new_layers)
        self.network = network
        self.num_classes = num_classes
        self.scales = list(scales)
        self.consistency_weight = consistency_weight
        self.consistency_threshold = consistency_threshold
        self.divide_by_scales = divide_by_scales
        self.correction = correction
        self.new_layers = new_layers
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = confusion(num_classes)
        weights = torch.ones(len(scales))
        if learn_scale_weights:
            self.scale_weights = nn.Parameter(weights)  # scores v; the scale weights are w = softmax(v)
        else:
            self.register_buffer("scale_weights", weights)
        self.register_buffer("ended", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("corrected", torch.zeros(num_classes, dtype=torch.bool))
        self.predictions = TrainingPredictions()

    def forward(self, image: Tensor) -> Tensor:
        return multi_scale_logits(self.network, image, [1.0])[0]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit" or self.correction is None:
            return
        data: Any = require(self._data, LabelStore, "ADELE")
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(getattr(callback, "detects_early_learning", False) for callback in callbacks):
            raise ValueError(
                "model.correction needs the callback callbacks.early_learning.EarlyLearning: add this callback to "
                "trainer.callbacks, or set model.correction to null"
            )
        if isinstance(self.correction, TrainingPassCorrection) and getattr(data, "augmentation", None) is not None:
            raise ValueError(
                f"TrainingPassCorrection needs unaugmented training images, but {type(data).__name__} augments them: "
                "use EvaluationPassCorrection"
            )

    @property
    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def on_fit_start(self) -> None:
        self.predictions.begin()

    def training_step(self, batch: LabelledMaskBatch, batch_idx: int) -> dict[str, Tensor]:
        label = batch["label"]
        logits = multi_scale_logits(self.network, batch["image"], self.scales)
        weight = at_least_float32(self.scale_weights).softmax(dim=0)
        terms = {"cross_entropy": multi_scale_cross_entropy(logits, label, weight)}
        loss = terms["cross_entropy"]
        if self.consistency_weight > 0:
            terms["consistency"] = multi_scale_consistency(logits, label, weight, self.consistency_threshold)
            loss = loss + self.consistency_weight * terms["consistency"]
        if self.divide_by_scales:
            loss = loss / len(self.scales)
        whole = logits[self.scales.index(1)].detach()
        if isinstance(self.correction, TrainingPassCorrection):
            thresholds = self.correction.foreground_threshold, self.correction.background_threshold
            predicted = confident_prediction(at_least_float32(whole).softmax(dim=1), *thresholds)
            self.predictions.add(batch["index"], label, predicted, global_batch_size(batch))
        return {"loss": log_training(self, batch, loss, **terms), "logits": whole}

    def on_early_learning_end(self, categories: list[int], epoch: int) -> None:
        self.ended[categories] = True
        self.ended[BACKGROUND] = False

    def on_early_learning_tested(self, categories: list[int], epoch: int) -> None:
        """Correct the labels of the categories whose early learning has ended, after the test that follows an epoch."""
        if isinstance(self.correction, TrainingPassCorrection):
            on = self.ended
            if self.correction.every_n_epochs is not None:
                now = torch.zeros_like(self.ended)
                now[[category for category in categories if category != BACKGROUND]] = True
                on, corrected = categories_due(now, self.corrected, epoch, self.correction.every_n_epochs)
                self.corrected.copy_(corrected)
            if on.any():
                self._merge_training_predictions(on)
            self.predictions.clear()
        elif isinstance(self.correction, EvaluationPassCorrection) and self.ended.any():
            self._update_by_evaluation(self.correction, epoch)

    def _merge_training_predictions(self, on: Tensor) -> None:
        for batch in self.predictions:
            label, predicted = (each.to(self.device).long() for each in (batch.label, batch.predicted))
            self._store(batch.index.to(self.device), label, merged_label(label, predicted, on))

    def _update_by_evaluation(self, correction: EvaluationPassCorrection, epoch: int) -> None:
        flip = correction.flip_from_epoch is not None and epoch >= correction.flip_from_epoch
        broadcast_buffers(self.network)
        with in_evaluation_mode(self.trainer, self):
            for on_host in require(self._data, TrainingImageSource, "ADELE").training_images_dataloader():
                batch: Any = self.trainer.strategy.batch_to_device(on_host)
                logits = multi_scale_logits(self.network, batch["image"], correction.scales, flip)
                mean = torch.stack([at_least_float32(each) for each in logits]).mean(dim=0)
                probability, predicted = (mean / correction.temperature).softmax(dim=1).max(dim=1)
                given = batch["original_label"]
                new = updated_label(given, predicted, probability, self.ended, correction.threshold)
                self._store(batch["index"], batch["label"], new)

    def _store(self, index: Tensor, old: Tensor, new: Tensor) -> None:
        """Store changed labels in the DataModule. Every rank must call this method."""
        changed = (new != old).flatten(1).any(dim=1)
        self._data.correct_labels(index[changed], new[changed])

    def configure_optimizers(self) -> Any:
        groups = learning_rate_groups(self.network, self.new_layers)
        if isinstance(self.scale_weights, nn.Parameter):
            groups.append({"params": [self.scale_weights], "weight_decay": 0.0})
        optimizer = self.optimizer(groups)
        scale_learning_rates(optimizer)
        return with_schedule(optimizer, self.lr_scheduler)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the predictions of an unfinished epoch: the correction at the end of the epoch needs them."""
        checkpoint["training_predictions"] = self.predictions.gather(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.predictions.restore(checkpoint["training_predictions"])
