"""Track early learning and memorisation of each category while a classifier or segmenter is trained.

`counts.py` computes counts and fractions. `curve.py` detects the epoch at which early learning ends, from the course of
the fit to the given labels.

Source: Liu et al., Adaptive Early-Learning Correction for Segmentation from Noisy Annotations, CVPR 2022, arXiv
2110.03740 (detection); Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020,
arXiv 2007.00151 (memorisation).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.early_learning.counts import ROWS, RunningCounts, count_categories, count_right_labels, overall_shares
from callbacks.early_learning.figure import draw_early_learning
from callbacks.early_learning.history import CategoryHistory
from datamodules.arguments import at_least, one_of, within
from datamodules.files.whole_files import save_figure
from lightning_modules.interfaces import Classifier, EarlyLearningFollower, LabelCorrector, class_names, require
from lightning_modules.training.logging import log_same
from lightning_modules.training.run_length import num_epochs


class EarlyLearning(Callback):
    """Record fit and memorisation of each category, and detect when early learning ends.

    The callback reads the `logits` that `training_step` returns, so it needs no second forward pass and no host
    synchronisation. After each epoch, it logs these metrics over all categories:

    * `train/fit_given`, and, if true labels are known, `train/fit_true` and `train/memorized`. In segmentation, the two
      metrics of fit are mean IoUs over the categories that occur in the data;
    * `early_learning/ended`, the number of categories whose early learning has ended;
    * `train/label_accuracy` (`train/label_miou` in segmentation), the agreement between the training labels and the
      true labels. It is logged only if labels can be corrected (a batch has `original_label`) and true labels are
      known.

    If the run has a logger, the callback writes `early_learning.csv` and `figures/early_learning.png` to the run
    directory. The table's columns are epoch, category, fit_given, fit_true, memorized and ended. Unknown values are
    empty.

    When the end of early learning is first detected for some categories, this callback calls `on_early_learning_end` of
    a module that is a `LabelCorrector`, and then `on_early_learning_end(trainer, pl_module, categories)` of callbacks
    that define this hook. If the module is an `EarlyLearningFollower`, its method `on_early_learning_tested` is called
    after each epoch, between these two calls if they are made. The method receives all categories whose early learning
    has ended according to the current curves. As records are added, a category may drop out of this list.

    ADELE's authors use `min_jump: 0.1, reference: current, background: 0` for SegTHOR, and
    `horizon: 16, interval: 100, background: 0` for PASCAL VOC. With both settings, the callback tests after each epoch
    whether early learning has ended, using the records so far. Epochs are counted from 0.

    Args:
        r: threshold on the relative change of the slope of the curve, in [0, 1].
        horizon: number of epochs n in which the end of early learning is searched for; the default is the number of
            epochs that the trainer's `max_epochs` or `max_steps` allows.
        interval: number of iterations (batches) between two records of the curve; the default is one record for each
            epoch. Each record covers the batches since the previous record or the start of the epoch. As in the
            authors' code for VOC, the first record consists of the first batch only.
        min_jump: increase between two records that marks the start of learning of a category. Earlier records of the
            category are dropped; without such an increase, its early learning never ends. None keeps all records.
        reference: labels for measuring fit and memorisation: `original` (`original_label` in batches with corrected
            labels) or `current` (the labels used for training).
        background: category that is never tested for the end of early learning.
        draw_every_n_epochs: number of epochs between two figures. The last figure is drawn at the end of training.
        log_categories: whether to log `train/early_learning_epochs_<k>` for each category k: the number of epochs until
            its early learning ended, or, if it has not ended, the number of epochs so far.
    """

    reads_logits = True
    """Tells a module to compute the logits in every step, even if it would otherwise skip them in some steps."""
    detects_early_learning = True
    """Tells a module that waits for the end of early learning that this callback will report it."""

    def __init__(
        self,
        r: float = 0.9,
        horizon: int | None = None,
        interval: int | None = None,
        min_jump: float | None = None,
        reference: Literal["original", "current"] = "original",
        background: int | None = None,
        draw_every_n_epochs: int = 10,
        log_categories: bool = False,
    ) -> None:
        within(0, 1, r=r)
        within(0, 1, "(]", min_jump=min_jump)
        at_least(2, horizon=horizon)
        at_least(1, interval=interval, draw_every_n_epochs=draw_every_n_epochs)
        one_of(("original", "current"), reference=reference)
        self.r = r
        self.horizon = horizon
        self.interval = interval
        self.min_jump = min_jump
        self.reference = reference
        self.background = background
        self.draw_every_n_epochs = draw_every_n_epochs
        self.log_categories = log_categories
        self._start(num_classes=0)

    def _start(self, num_classes: int) -> None:
        self.history = CategoryHistory(num_classes)
        self.running = RunningCounts(num_classes, self.interval)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        num_classes = require(pl_module, Classifier, "EarlyLearning").num_classes
        if self.background is not None and not 0 <= self.background < num_classes:
            raise ValueError(f"background must be a category in 0 ... {num_classes - 1}, got {self.background}")
        if self.horizon is None and max(trainer.max_epochs or -1, trainer.max_steps) <= 0:
            raise ValueError(
                f"EarlyLearning: horizon has no default, because trainer.max_epochs is {trainer.max_epochs} and "
                f"trainer.max_steps is {trainer.max_steps} (no limit): set trainer.max_epochs, trainer.max_steps, or "
                "init_args.horizon of the callback"
            )
        if num_classes != self.history.num_classes:
            self._start(num_classes)
        directory = trainer.log_dir if trainer.loggers else None  # a broadcast, so every rank must read it
        self._directory = Path(directory) if directory else None
        self.history.written = self._drawn = 0  # epochs in the table and in the figure of this process

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.interval is not None and trainer.num_training_batches == float("inf"):
            raise ValueError(
                f"EarlyLearning: interval {self.interval} needs a dataloader of known length; omit it to record epochs"
            )
        self.running.to(pl_module.device)
        if self.running.epoch is not None and self.running.epoch < trainer.current_epoch:
            # A checkpoint of an epoch's last batch resumes in the next epoch, without the hook at the former's end.
            self._close_epoch(trainer, pl_module, self.running.epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            raise ValueError(
                f"training_step must return a dict with 'logits' for EarlyLearning, and {type(pl_module).__name__} "
                f"returns {sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__}"
            )
        logits = outputs["logits"].detach()
        given = batch.get("original_label", batch["label"]) if self.reference == "original" else batch["label"]
        if logits.shape[1] != self.history.num_classes or logits.shape[:1] + logits.shape[2:] != given.shape:
            raise ValueError(
                f"EarlyLearning: logits {list(logits.shape)} do not match labels {list(given.shape)} "
                f"of {self.history.num_classes} classes"
            )
        self.history.per_pixel = logits.ndim > 2
        self.running.add(trainer.current_epoch, counts_of(logits, given, batch))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.running.epoch is None:  # resumed from a checkpoint at the end of this epoch
            return
        self._close_epoch(trainer, pl_module, self.running.epoch)
        shares = overall_shares(self.history.counts[-1], self.history.per_pixel)
        shares["label_miou" if self.history.per_pixel else "label_accuracy"] = shares.pop("label_quality")
        for name, value in shares.items():
            if not value.isnan():
                log_same(pl_module, f"train/{name}", float(value))
        log_same(pl_module, "early_learning/ended", float((self.history.ended_at >= 0).sum()))
        if self.log_categories:
            for category, ended_at in enumerate(self.history.ended_at.tolist()):
                last = self.history.epochs[-1] if ended_at < 0 else ended_at
                log_same(pl_module, f"train/early_learning_epochs_{category}", float(last + 1))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figure; if an earlier process completed the training, it may have stopped before drawing it."""
        if trainer.is_global_zero:
            self._draw(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state. Must be called on every rank, because the counts of an open epoch are summed over ranks."""
        return {"history": self.history.state_dict(), "running": self.running.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        num_classes = len(state_dict["history"]["ended_at"])
        if self.history.num_classes not in (0, num_classes):
            raise ValueError(
                f"EarlyLearning: the checkpoint has {num_classes} categories "
                f"and the module has {self.history.num_classes}"
            )
        self._start(num_classes)
        self.history.load_state_dict(state_dict["history"])
        self.running.load_state_dict(state_dict["running"])

    def _close_epoch(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Sum the epoch's counts, test whether early learning has ended, write the table, and call the hooks."""
        history = self.history
        history.append(epoch, self.running.close(), cut=self.interval is not None)
        follower = pl_module if isinstance(pl_module, EarlyLearningFollower) else None
        every = enumerate(history.ended_at.tolist())
        tested = [k for k, ended_at in every if k != self.background and (ended_at < 0 or follower is not None)]
        found: list[int] = []
        if trainer.is_global_zero:
            horizon = self.horizon or num_epochs(trainer) or 0  # `setup` refuses a run without either
            found = history.detect(tested, self._epochs_per_record(trainer), self.r, horizon, self.min_jump)
        found, history.curves = trainer.strategy.broadcast((found, history.curves))
        categories = [category for category in found if history.ended_at[category] < 0]
        history.ended_at[categories] = epoch
        if trainer.is_global_zero and self._directory is not None:
            history.write(self._directory / "early_learning.csv")
            if (epoch + 1) % self.draw_every_n_epochs == 0:
                self._draw(trainer)
        if categories and isinstance(pl_module, LabelCorrector):
            pl_module.on_early_learning_end(categories, epoch)
        if follower is not None:
            follower.on_early_learning_tested(found, epoch)
        if categories:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if hasattr(callback, "on_early_learning_end"):
                    callback.on_early_learning_end(trainer, pl_module, categories)

    def _epochs_per_record(self, trainer: Trainer) -> float:
        return 1.0 if self.interval is None else self.interval / trainer.num_training_batches

    def _draw(self, trainer: Trainer) -> None:
        if self._directory is None or self._drawn == len(self.history.epochs):
            return
        self._drawn = len(self.history.epochs)
        history, per_record = self.history, self._epochs_per_record(trainer)
        fit_epochs = history.epochs if self.interval is None else [i * per_record for i in range(len(history.records))]
        names = class_names(trainer) or [str(k) for k in range(history.num_classes)]
        save_figure(draw_early_learning(history, fit_epochs, names), self._directory / "figures" / "early_learning.png")


def counts_of(logits: Tensor, given: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Count the fit of a batch to its given and true labels, and how many corrected labels are right, `[ROWS, K]`."""
    true = batch.get("clean_label")
    fit = count_categories(logits, given, true)
    if true is not None and "original_label" in batch:
        right = count_right_labels(batch["label"], true, logits.shape[1])
    else:
        right = fit.new_zeros(ROWS - len(fit), logits.shape[1])
    return torch.cat([fit, right])
