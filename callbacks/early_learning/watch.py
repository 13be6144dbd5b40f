"""Early learning and memorisation, watched per category while any classifier or segmenter trains.

What is counted, and which shares follow from it, is in `early_learning_counts.py`. The curve of the fit to the given
labels over the epochs tells when early learning ends (`early_learning_curve.py`).

Source: Liu et al., Adaptive Early-Learning Correction for Segmentation from Noisy Annotations, CVPR 2022, arXiv
2110.03740 (detection); Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020,
arXiv 2007.00151 (memorisation).
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.early_learning.counts import (
    ROWS,
    category_shares,
    count_categories,
    count_right_labels,
    label_fit,
    overall_shares,
    sum_over_processes,
)
from callbacks.early_learning.curve import detect
from callbacks.early_learning.figure import draw_early_learning
from datamodules.files.whole_files import save_figure, whole_file
from lightning_modules.interfaces import Classifier, EarlyLearningFollower, LabelCorrector, require


class EarlyLearning(Callback):
    """Records fit and memorisation per category, and detects when early learning ends for each.

    Reads the `logits` that `training_step` returns, so it costs no second pass, and no step waits for the host. At the
    end of an epoch it logs `train/fit_given`, `train/fit_true` and `train/memorized` over all categories (for pixels
    the fits are means of the IoU over the categories that occur) and `early_learning/ended`, the number of categories
    whose early learning has ended; what needs true labels only where they are known. It writes `early_learning.csv`
    (columns epoch, category, fit_given, fit_true, memorized, ended; an unknown value is empty) and draws
    `figures/early_learning.png` in the run directory, and neither without a logger. Where labels can be corrected (a
    batch has `original_label`) and true ones are known, it also logs how right the labels that were trained on are:
    `train/label_miou` for pixels, `train/label_accuracy` for samples.

    When early learning ends for some categories, once for each, it calls `on_early_learning_end(categories, epoch)` of
    the module if that is a `LabelCorrector`, and `on_early_learning_end(trainer, pl_module, categories)` of the
    callbacks that have it. Between the two, and after every other epoch too, it calls
    `on_early_learning_tested(categories, epoch)` of the module if that is an `EarlyLearningFollower`, with all
    categories for which the curve says so now: with more records it may no longer do so for one that had ended.

    The ADELE authors' settings are, for SegTHOR, `min_jump: 0.1, reference: current, background: 0`, and for PASCAL VOC
    `horizon: 16, interval: 100, background: 0`. Both test epoch e, counted from 0, at its end, with the records up to
    it.

    Args:
        r: threshold on the relative change of the curve's slope, in [0, 1].
        horizon: number of epochs n in which the end is sought; the trainer's `max_epochs` if not given.
        interval: iterations (batches) between two records of the curve; one record for each epoch if not given. As in
            the VOC code the first record is the first batch, and a record counts from the one before it or from the
            start of its epoch.
        min_jump: increment between two records that marks the start of learning of a category; earlier records are left
            out of its curve, and a category without such an increment never ends. Not given: no record is left out.
        reference: labels that the fit and the memorised share are measured against: the `original` ones, which a batch
            with corrected labels carries as `original_label`, or the `current` ones, which are trained on.
        background: category that is never tested.
        draw_every_n_epochs: epochs between two drawings; the last one is at the end of training.

    Raises:
        ValueError: if an argument is out of its range; in training, if there is no horizon, if `interval` is given and
            the number of batches is not known, or if the logits are missing or do not match the labels or
            `num_classes`.
        TypeError: if the module is neither a `Classifier` nor a `Segmenter`.
    """

    reads_logits = True
    """Tells a module that computes no logits in some of its steps to do so."""
    detects_early_learning = True
    """Tells a module that waits for the end of early learning that it will hear of it."""

    def __init__(
        self,
        r: float = 0.9,
        horizon: int | None = None,
        interval: int | None = None,
        min_jump: float | None = None,
        reference: Literal["original", "current"] = "original",
        background: int | None = None,
        draw_every_n_epochs: int = 10,
    ) -> None:
        if not 0 <= r <= 1:
            raise ValueError(f"r must be in [0, 1], got {r}")
        if horizon is not None and horizon < 2:
            raise ValueError(f"horizon must be at least 2 epochs, got {horizon}")
        if interval is not None and interval < 1:
            raise ValueError(f"interval must be at least 1 iteration, got {interval}")
        if min_jump is not None and not 0 < min_jump <= 1:
            raise ValueError(f"min_jump must be in (0, 1], got {min_jump}")
        if reference not in ("original", "current"):
            raise ValueError(f"reference must be 'original' or 'current', got {reference!r}")
        if draw_every_n_epochs < 1:
            raise ValueError(f"draw_every_n_epochs must be at least 1, got {draw_every_n_epochs}")
        self.r = r
        self.horizon = horizon
        self.interval = interval
        self.min_jump = min_jump
        self.reference = reference
        self.background = background
        self.draw_every_n_epochs = draw_every_n_epochs

        self.num_classes = 0
        self.per_pixel = False
        self.epochs: list[int] = []
        self.counts = torch.zeros(0, ROWS, 0, dtype=torch.int64)
        """`[epochs, 11, K]`, over all processes; rows as in `count_categories`, then in `count_right_labels`."""
        self.records = torch.zeros(0, 0, dtype=torch.float64)
        """`[records, K]`: the curves that are fitted."""
        self.ended_at = torch.zeros(0, dtype=torch.int64)
        """`[K]`: epoch at which early learning ended, -1 before."""
        self.curves = torch.zeros(0, 5, dtype=torch.float64)
        """`[K, 5]`: a, b, c, first record and number of records of the last fit, NaN without one."""
        # What is counted of an epoch that is not over, by this process; a record ends with every `interval`-th batch.
        #
        #                                        _open_epoch  _windows                 _window
        #   before training                      None         []                       None
        #   training has started                 None         []                       0
        #   after a batch of epoch e             e            finished records of e    counted in e since the last one
        #   epoch e is closed                    None         []                       0
        #   loaded, saved between two epochs     None         []                       None, then 0 as training starts
        #   loaded, saved within epoch e         e            sums over all processes in process 0, 0 in the others
        #   the same, saved after e's last batch              is closed as training starts, in epoch e + 1
        self._open_epoch: int | None = None
        self._windows: list[Tensor] = []
        self._window: Tensor | None = None
        self._iteration = 0  # batches since training began; epochs do not reset it
        self._directory: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        require(pl_module, Classifier, needed_by=type(self).__name__)
        num_classes = int(pl_module.num_classes)  # type: ignore[arg-type]
        if self.background is not None and not 0 <= self.background < num_classes:
            raise ValueError(f"background must be a category in 0 ... {num_classes - 1}, got {self.background}")
        if self.horizon is None and not (trainer.max_epochs or 0) > 0:
            raise ValueError("EarlyLearning: set horizon, since the trainer has no max_epochs to take it from")
        if num_classes != self.num_classes:
            self.num_classes = num_classes
            self.counts = torch.zeros(0, ROWS, num_classes, dtype=torch.int64)
            self.records = torch.zeros(0, num_classes, dtype=torch.float64)
            self.ended_at = torch.full((num_classes,), -1)
            self.curves = torch.full((num_classes, 5), torch.nan, dtype=torch.float64)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.interval is not None and trainer.num_training_batches == float("inf"):
            raise ValueError(
                f"EarlyLearning: interval {self.interval} needs a loader of known length; leave it out to record epochs"
            )
        directory = trainer.log_dir if trainer.loggers else None  # broadcast: every process asks
        self._directory = Path(directory) if directory else None
        if self._window is None:
            self._window = torch.zeros(ROWS, self.num_classes, dtype=torch.int64)
        self._window = self._window.to(pl_module.device)
        self._windows = [window.to(pl_module.device) for window in self._windows]
        if self._open_epoch is not None and self._open_epoch < trainer.current_epoch:
            # A checkpoint of the last batch of an epoch is resumed in the next epoch, without an end of the former.
            self._close_epoch(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            raise ValueError(
                f"EarlyLearning needs 'logits' in the dict that training_step returns, and {type(pl_module).__name__} "
                f"returns {sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__}"
            )
        logits = outputs["logits"]
        given = batch.get("original_label", batch["label"]) if self.reference == "original" else batch["label"]
        if logits.shape[1] != self.num_classes or logits.shape[:1] + logits.shape[2:] != given.shape:
            raise ValueError(
                f"EarlyLearning: logits {list(logits.shape)} do not match labels {list(given.shape)} "
                f"of {self.num_classes} classes"
            )
        assert self._window is not None
        self.per_pixel = logits.ndim > 2
        self._open_epoch = trainer.current_epoch
        true = batch.get("clean_label")
        self._window[:8] += count_categories(logits.detach(), given, true)
        if true is not None and "original_label" in batch:
            self._window[8:] += count_right_labels(batch["label"], true, self.num_classes)
        if self.interval is not None and self._iteration % self.interval == 0:
            self._windows.append(self._window)
            self._window = torch.zeros_like(self._window)
        self._iteration += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._open_epoch is None:  # resumed from a checkpoint of the end of this epoch
            return
        self._close_epoch(trainer, pl_module)
        for name, value in overall_shares(self.counts[-1], self.per_pixel).items():
            logged = name if name != "label_quality" else "label_miou" if self.per_pixel else "label_accuracy"
            self._log(pl_module, f"train/{logged}", value)
        self._log(pl_module, "early_learning/ended", float((self.ended_at >= 0).sum()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._draw(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The partial counts of an unfinished epoch are summed over processes: every process must call this."""
        counted = None
        if self._open_epoch is not None and self._window is not None:
            counted = sum_over_processes(torch.stack([*self._windows, self._window])).cpu()
        return {
            "per_pixel": self.per_pixel,
            "epochs": list(self.epochs),
            "counts": self.counts,
            "records": self.records,
            "ended_at": self.ended_at,
            "curves": self.curves,
            "iteration": self._iteration,
            "open_epoch": self._open_epoch,
            "open_counts": counted,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of the partial counts, summed over processes when saved, the first process takes all and the others none."""
        num_classes = len(state_dict["ended_at"])
        if self.num_classes not in (0, num_classes):
            raise ValueError(
                f"EarlyLearning: the checkpoint has {num_classes} categories and the module {self.num_classes}"
            )
        self.num_classes = num_classes
        self.per_pixel = state_dict["per_pixel"]
        self.epochs = list(state_dict["epochs"])
        self.counts = state_dict["counts"]
        self.records = state_dict["records"]
        self.ended_at = state_dict["ended_at"]
        self.curves = state_dict["curves"]
        self._iteration = state_dict["iteration"]
        self._open_epoch = state_dict["open_epoch"]
        self._windows, self._window = [], None
        if state_dict["open_counts"] is not None:
            *self._windows, self._window = state_dict["open_counts"]
            if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
                self._windows = [torch.zeros_like(window) for window in self._windows]
                self._window = torch.zeros_like(self._window)

    def _close_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reduces the open epoch's counts, tests the categories, tells who wants to know, and writes the table."""
        assert self._open_epoch is not None
        assert self._window is not None
        epoch = self._open_epoch
        windows = sum_over_processes(torch.stack([*self._windows, self._window])).cpu()
        self._open_epoch, self._windows, self._window = None, [], torch.zeros_like(self._window)

        self.epochs.append(epoch)
        self.counts = torch.cat([self.counts, windows.sum(dim=0, keepdim=True)])
        recorded = self.counts[-1:] if self.interval is None else windows[:-1]
        fits = label_fit(recorded[:, 0], recorded[:, 1], recorded[:, 2], self.per_pixel)
        self.records = torch.cat([self.records, fits])

        follower = pl_module if isinstance(pl_module, EarlyLearningFollower) else None
        found = self._detect(trainer, epoch, test_all=follower is not None) if trainer.is_global_zero else []
        found, self.curves = trainer.strategy.broadcast((found, self.curves))
        categories = [category for category in found if self.ended_at[category] < 0]
        self.ended_at[categories] = epoch
        if trainer.is_global_zero:
            self._write()
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

    def _detect(self, trainer: Trainer, epoch: int, test_all: bool) -> list[int]:
        """Fits the curves of the categories that are still learned early, or of all; returns those that are not now."""
        horizon = self.horizon or trainer.max_epochs
        assert horizon is not None
        ended = []
        for category in range(self.num_classes):
            had_ended = bool(self.ended_at[category] >= 0)
            if category == self.background or (had_ended and not test_all):
                continue
            found = detect(
                self.records[:, category].numpy(), self._epochs_per_record(trainer), self.r, horizon, self.min_jump
            )
            if found is None:
                continue
            if not had_ended:
                self.curves[category] = torch.tensor(
                    [*found.curve, found.start, len(self.records) - found.start], dtype=torch.float64
                )
            if epoch >= found.end:
                ended.append(category)
        return ended

    def _epochs_per_record(self, trainer: Trainer) -> float:
        return 1.0 if self.interval is None else self.interval / trainer.num_training_batches

    @staticmethod
    def _log(pl_module: LightningModule, name: str, value: Tensor | float) -> None:
        """The value is the same on all processes; the maximum over them leaves it as it is, to the last bit."""
        if value == value:
            pl_module.log(name, float(value), on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True)

    def _write(self) -> None:
        if self._directory is None:
            return
        shares = {name: values.tolist() for name, values in category_shares(self.counts, self.per_pixel).items()}
        ended_at = self.ended_at.tolist()
        with whole_file(self._directory / "early_learning.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "category", *shares, "ended"])
            for row, epoch in enumerate(self.epochs):
                for category, end in enumerate(ended_at):
                    values = [value[row][category] for value in shares.values()]
                    writer.writerow([epoch, category, *("" if v != v else v for v in values), int(0 <= end <= epoch)])

    def _draw(self, trainer: Trainer) -> None:
        if self._directory is None or not self.epochs:
            return
        per_record = self._epochs_per_record(trainer)
        names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        figure = draw_early_learning(
            epochs=self.epochs,
            fits=self.records.numpy(),
            fit_epochs=[i * per_record for i in range(len(self.records))] if self.interval else self.epochs,
            curves=self.curves.numpy(),
            ended_at=self.ended_at.numpy(),
            memorized=category_shares(self.counts, self.per_pixel)["memorized"].numpy(),
            overall={name: values.numpy() for name, values in overall_shares(self.counts, self.per_pixel).items()},
            names=names or [str(category) for category in range(self.num_classes)],
            fit_name="IoU with the given labels" if self.per_pixel else "share predicted as given",
        )
        save_figure(figure, self._directory / "figures" / "early_learning.png")
