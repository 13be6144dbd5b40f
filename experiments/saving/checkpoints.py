"""Save the best and the last checkpoint of a run, and checkpoints within epochs or on a stop signal."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from experiments.lightning_internals import may_go_on_from_here, signal_handling
from experiments.results import choose_from, misspelt
from experiments.saving.stop_signals import StopSignals


@dataclass
class Checkpoints:
    """Settings that determine which checkpoints a run saves, and which checkpoint is tested.

    Args:
        test_checkpoint: checkpoint that `test`, `validate` and `predict` load. Choose `best` or `last`, as in the
            paper.
        monitor: metric that selects the best epoch, for example `val/accuracy`. None saves only the last checkpoint.
        mode: `max` if greater values of `monitor` are better, `min` if smaller values are better.
        also_test_best: if `test_checkpoint` is `last`, also report the test metrics of the best epoch, as
            `best_epoch/test/...`.
        every_n_epochs: save the last checkpoint every n epochs.
        every_n_steps: also save within epochs, after every n training steps.
    """

    test_checkpoint: Literal["best", "last"] = "last"
    monitor: str | None = None
    mode: Literal["min", "max"] = "max"
    also_test_best: bool = False
    every_n_epochs: int = 1
    every_n_steps: int | None = None

    def __post_init__(self) -> None:
        if self.monitor is None and (self.test_checkpoint == "best" or self.also_test_best):
            raise ValueError(
                "checkpoint.monitor must name a metric if checkpoint.test_checkpoint is best or also_test_best is true"
            )

    def callbacks(self, directory: Path, try_out: Callable[[], Collection[str] | None] | None = None) -> list[Callback]:
        """Build the callbacks that save checkpoints.

        The best checkpoint is saved first, as the last checkpoint includes the state of this callback.

        Args:
            directory: the run directory.
            try_out: function that returns the metrics of a short run with these settings. A resumed run has no
                function.
        """
        shared: dict[str, Any] = {"dirpath": directory / "checkpoints", "enable_version_counter": False}
        savers: list[Callback] = []
        if self.monitor is not None:
            needed = self.test_checkpoint == "best" or self.also_test_best
            savers.append(BestNeedsItsMetric(self.monitor, needed, try_out))
            savers.append(
                BestCheckpoint(
                    filename="best", monitor=self.monitor, mode=self.mode, save_on_train_epoch_end=True, **shared
                )
            )
        savers.append(
            LastCheckpoint(filename="last", every_n_epochs=self.every_n_epochs, save_on_train_epoch_end=True, **shared)
        )
        savers.append(StepCheckpoint(self.every_n_steps, filename="step", **shared))
        return savers


class BestNeedsItsMetric(Callback):
    """Check before training that `checkpoint.monitor` is logged.

    The sanity check of Lightning validates one batch. This shows which metrics a validation logs. If the metric is
    missing there, a short run is started. A metric that is missing in the short run is rejected. Some callbacks log
    metrics only in full runs (`measures_whole_runs_alone`). With such a callback, a metric is rejected only if its name
    resembles a known metric.

    Args:
        monitor: the metric, for example `val/accuracy`.
        needed: whether a setting requires the metric, because the best epoch is tested.
        try_out: function that returns the metrics of a short run, or None if the short run failed. A resumed run has no
            function.
    """

    def __init__(self, monitor: str, needed: bool, try_out: Callable[[], Collection[str] | None] | None) -> None:
        self.monitor = monitor
        self.needed = needed
        self.try_out = try_out
        self._logged: set[str] = set()

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged = set(trainer.callback_metrics)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        validates = bool(sum(trainer.num_val_batches))
        self._refuse_no_validation(validates)
        if self.try_out is None or self.monitor in self._logged or not (validates or self.needed):
            return
        rank_zero_info(f"One validation batch does not log checkpoint.monitor {self.monitor}: checking in a short run")
        logged = trainer.strategy.broadcast(self.try_out() if trainer.is_global_zero else None)
        later = any(getattr(each, "measures_whole_runs_alone", False) for each in trainer.callbacks)  # type: ignore[attr-defined]
        if logged is None:
            return
        logged = [name for name in logged if "test/" not in name]  # computed after training
        if self.monitor in logged:
            return
        if not later or misspelt(self.monitor, logged):
            raise ValueError(f"nothing logs checkpoint.monitor {self.monitor}{choose_from(self.monitor, logged)}")

    def _refuse_no_validation(self, validates: bool) -> None:
        if self.needed and self.monitor.startswith("val/") and not validates:
            raise ValueError(
                f"checkpoint.monitor is {self.monitor}, and there are no validation samples: add some (with "
                f"data.validation_fraction, if the data have it), or set checkpoint.test_checkpoint last and "
                f"also_test_best false"
            )


class BestCheckpoint(ModelCheckpoint):
    """Save the best epoch.

    This is a separate class, so that checkpoints keep its state apart from a `ModelCheckpoint` of the user.
    """


class LastCheckpoint(ModelCheckpoint):
    """Save every few epochs, and always after the last epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        over = (
            trainer.should_stop
            or trainer.current_epoch + 1 == trainer.max_epochs
            or 0 <= trainer.max_steps <= trainer.global_step
        )
        if over and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class StepCheckpoint(ModelCheckpoint):
    """Save within an epoch, at intervals and on a stop signal. After a stop signal, the run ends.

    Nothing is saved after the last batch of an epoch or before a validation. A resumed run would skip the end of the
    epoch or the validation. Nothing is saved between batches of accumulated gradients, because the gradients would be
    lost.

    Args:
        every_n_steps: number of steps between checkpoints. None saves checkpoints only on a stop signal.
    """

    def __init__(self, every_n_steps: int | None, **kwargs: Any) -> None:
        super().__init__(every_n_train_steps=every_n_steps or 0, every_n_epochs=0, **kwargs)
        self.every_n_steps = every_n_steps
        self._saved = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals = signal_handling(trainer)
        self.signals = signals if isinstance(signals, StopSignals) else StopSignals(trainer)
        self._saved = trainer.global_step
        self.signals.in_step = True
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # Lightning does not when resuming mid-epoch
                callback.on_train_epoch_start(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if not may_go_on_from_here(trainer):
            return
        stops, every = self.signals.agreed(), self.every_n_steps
        if stops or (every and trainer.global_step // every > self._saved // every):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._saved = trainer.global_step
        if stops:
            self.signals.stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn == "fit" and self.signals.agreed():
            self.signals.stop()
        self.signals.in_step = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.signals.in_step = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.signals.agreed():
            self.signals.stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_steps is None and trainer.is_global_zero:
            Path(str(self.dirpath), "step.ckpt").unlink(missing_ok=True)  # left by an earlier stop
