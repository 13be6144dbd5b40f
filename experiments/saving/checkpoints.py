"""Save the best and the last checkpoint of a run, and also checkpoints within epochs and after a stop signal."""

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
        test_checkpoint: checkpoint that `test`, `validate` and `predict` load: `best` or `last`. Set the one that the
            paper uses.
        monitor: metric that selects the best epoch, for example `val/accuracy`. None saves only the last checkpoint.
        mode: `max` if larger values of `monitor` are better, or `min` if smaller values are better.
        also_test_best: whether to also report the test metrics of the best epoch, as `best_epoch/test/...`, if
            `test_checkpoint` is `last`.
        every_n_epochs: number of epochs between two saves of the last checkpoint.
        every_n_steps: number of training steps between additional checkpoints within epochs. None saves no such
            checkpoints.
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

        The best checkpoint is saved first, because the last checkpoint includes the state of the callback that saves
        the best checkpoint.

        Args:
            directory: run directory.
            try_out: function that starts a short run with these settings and returns its metrics. None for a resumed
                run.
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

    Lightning's sanity check validates one batch. This shows which metrics validation logs. If the metric is not among
    them, a short run is started. If the metric is not logged in the short run either, it is rejected. However, some
    callbacks log metrics only in complete runs (`measures_whole_runs_alone`). If the run has such a callback, the
    metric is rejected only if its name resembles a known metric.

    Args:
        monitor: name of the metric, for example `val/accuracy`.
        needed: whether a setting requires the metric, because the best epoch is tested.
        try_out: function that starts a short run and returns its metrics, or None if the short run failed. For a
            resumed run, `try_out` itself is None.
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
        rank_zero_info(f"One validation batch does not log checkpoint.monitor {self.monitor}: a short run checks it")
        logged = trainer.strategy.broadcast(self.try_out() if trainer.is_global_zero else None)
        later = any(getattr(each, "measures_whole_runs_alone", False) for each in trainer.callbacks)  # type: ignore[attr-defined]
        if logged is None:
            return
        logged = [name for name in logged if "test/" not in name]  # test metrics are computed after training
        if self.monitor in logged:
            return
        if not later or misspelt(self.monitor, logged):
            raise ValueError(f"nothing logs checkpoint.monitor {self.monitor}{choose_from(self.monitor, logged)}")

    def _refuse_no_validation(self, validates: bool) -> None:
        if self.needed and self.monitor.startswith("val/") and not validates:
            raise ValueError(
                f"checkpoint.monitor is {self.monitor}, but there are no validation samples: add some (with "
                f"data.validation_fraction, if the data have it), or set checkpoint.test_checkpoint last and "
                f"also_test_best false"
            )


class BestCheckpoint(ModelCheckpoint):
    """Save the checkpoint of the best epoch.

    This is a separate class, so that checkpoints store its state separately from that of the user's `ModelCheckpoint`.
    """


class LastCheckpoint(ModelCheckpoint):
    """Save the last checkpoint every few epochs, and always after the last epoch."""

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
    """Save checkpoints within an epoch: at intervals, and when a stop signal is about to end the run.

    No checkpoint is saved after the last batch of an epoch or directly before validation, because a resumed run would
    skip the end of the epoch or the validation. No checkpoint is saved while gradients are accumulated, because these
    gradients would be lost.

    Args:
        every_n_steps: number of steps between checkpoints. None saves a checkpoint only after a stop signal.
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
            # Lightning omits this call when a run is resumed within an epoch.
            if isinstance(callback, GradientAccumulationScheduler):
                callback.on_train_epoch_start(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if not may_go_on_from_here(trainer):
            return
        stops, every = self.signals.agree(), self.every_n_steps
        if stops or (every and trainer.global_step // every > self._saved // every):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._saved = trainer.global_step
        if stops:
            self.signals.stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn == "fit" and self.signals.agree():
            self.signals.stop()
        self.signals.in_step = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.signals.in_step = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.signals.agree():
            self.signals.stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_steps is None and trainer.is_global_zero:
            Path(str(self.dirpath), "step.ckpt").unlink(missing_ok=True)  # left by an earlier stop
