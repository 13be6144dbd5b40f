"""The LightningModule that derives the learning rate from batch size or curvature, and measures batch spectra."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of
from datamodules.batches import LabelledImageBatch
from lightning_modules.dynamics.batch_lr.learner import OnlineLearner, set_keys
from lightning_modules.dynamics.batch_lr.spectra import BatchSpectra, MeasuredSpectra
from lightning_modules.dynamics.batch_lr.theory import POWERS, Scaling, scale
from lightning_modules.interfaces import Table, TrainingSamples, require_data
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.curvature import CurvatureProduct, curvature_mode, refuse_without_curvature
from lightning_modules.optim.optimizers import constant, sgd, trainable_parameters, with_schedule
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies, cross_entropy_step
from lightning_modules.training.chosen_samples import chosen_samples, drawn_places
from lightning_modules.training.logging import log_same
from lightning_modules.training.run_length import is_last_epoch


class BatchLR(ClassifierSteps, MethodModule):
    """Train a classifier with a learning rate that is derived from the batch size or from measured curvature.

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        reference_batch_size: batch size B_0 to which the optimizer's learning rate or damping refers. The learning rate
            or damping is scaled to the batch size of the run. None disables the scaling.
        scaling: how the learning rate is scaled with the global batch size, which includes gradient accumulation:
            `linear` for SGD, or `square_root` for Adam. If the optimizer has a damping, only the damping is scaled, in
            inverse proportion to the batch size.
        learner: learner that sets the learning rate from the curvature during training; None means no learner.
        spectra: measurement, after the last epoch, of the Hessian spectra of batches; None means no measurement.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        reference_batch_size: int | None = None,
        scaling: Scaling = "linear",
        learner: OnlineLearner | None = None,
        spectra: BatchSpectra | None = None,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, reference_batch_size=reference_batch_size)
        one_of(POWERS, scaling=scaling)
        self.network = network
        self.num_classes = num_classes
        self.reference_batch_size = reference_batch_size
        self.scaling: Scaling = scaling
        self.learner = learner
        self.spectra = spectra
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self._learned: dict[str, float] = {}
        self._rows: list[dict[str, float]] = []
        self._measured: MeasuredSpectra | None = None

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return cross_entropy_step(self, batch, None, False)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(trainable_parameters(self.network))
        if self.reference_batch_size is not None:
            scale(optimizer, self._batch_size(), self.reference_batch_size, self.scaling)
        if self.learner is not None:
            self.learner.check(optimizer)
        return with_schedule(optimizer, self.lr_scheduler)

    def _batch_size(self) -> int:
        """Return the number of samples in an optimizer step, over all ranks and accumulated batches."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        size = getattr(data, "batch_size", None)
        if size is None:
            raise ValueError(
                f"model.reference_batch_size {self.reference_batch_size} needs data with a batch_size, but "
                f"{type(data).__name__} has none"
            )
        return size * self.trainer.accumulate_grad_batches

    # Measurement

    def on_fit_start(self) -> None:
        if self.learner is None and self.spectra is None:
            return
        data = require_data(self.trainer, TrainingSamples, "BatchLR")
        if self.spectra is not None:
            self.spectra.places(data)
        if self.learner is not None:
            self._places(self.learner)
        if self.device.type != "meta":
            for each in (self.learner, self.spectra):
                if each is None:
                    continue
                few = drawn_places(data, 2 * self.trainer.world_size, "BatchLR", each.seed)
                batches = chosen_samples(self.trainer, few, "BatchLR", 2)
                refuse_without_curvature(self.network, batches, each.batch_norm, type(each).__name__)

    def _places(self, learner: OnlineLearner) -> Tensor:
        data = require_data(self.trainer, TrainingSamples, "BatchLR")
        samples = learner.samples or data.num_train_samples
        return drawn_places(data, samples, "OnlineLearner", learner.seed)

    def on_train_epoch_start(self) -> None:
        learner = self.learner
        if learner is None or self.device.type == "meta" or not learner.is_due(self.current_epoch):
            return
        batches = chosen_samples(self.trainer, self._places(learner), "OnlineLearner", learner.images_at_once)
        with curvature_mode(self.network, learner.batch_norm):
            values, found = learner.measure(CurvatureProduct(self.network, batches))
        self._learned = values or self._learned
        self._rows.append({"epoch": self.current_epoch, **found, **self._learned})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self._learned:  # for each batch, because a scheduler may have stepped since the last batch
            optimizers: Any = self.optimizers()
            set_keys(optimizers, self._learned)

    def on_train_epoch_end(self) -> None:
        for name, value in (self._rows[-1] if self._rows else {}).items():
            if name != "epoch":
                log_same(self, f"train/{'learned_' * (name in self._learned)}{name}", value)
        if self.spectra is not None and is_last_epoch(self.trainer):
            self._measured = self.spectra.measure(self.trainer, self.network)

    # Results

    def on_test_epoch_end(self) -> None:
        for name, value in (self._measured.metrics() if self._measured else {}).items():
            log_same(self, f"test/{name}", value)

    @property
    def tables(self) -> Mapping[str, Table]:
        """Return tables of the batch spectra, and of curvature and optimizer settings in each measured epoch."""
        found = dict(self._measured.tables()) if self._measured else {}
        if self._rows:
            names = dict.fromkeys(name for row in self._rows for name in row)
            found["learned"] = Table({name: [row.get(name, float("nan")) for row in self._rows] for name in names})
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        measured = self._measured.checkpoint_state() if self._measured else None
        checkpoint["curvature"] = {"learned": self._learned, "rows": self._rows, "measured": measured}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["curvature"]
        self._learned, self._rows = kept["learned"], kept["rows"]
        self._measured = MeasuredSpectra.restore_state(kept["measured"]) if kept["measured"] else None
