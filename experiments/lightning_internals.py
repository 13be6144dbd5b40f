"""Private names of Lightning and jsonargparse that runs use for lack of public ones, and why.

They stand here, and for modules in `lightning_modules/lightning_internals.py`, alone. A test fails by name where an
upgrade moves one of them, and `pyproject.toml` bounds the versions. Methods that classes of ours override are in that
test, too.
"""

from collections.abc import Iterator
from typing import Any

from jsonargparse._common import parsing_settings
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

FitLoop = _FitLoop
"""A loop that leaves no step to train returns at once; a public class of loops does not exist."""
SignalConnector = _SignalConnector
"""Lightning's handlers wait for other processes inside the handler, and cannot be given or switched off."""


def handle_signals(trainer: Any, signals: SignalConnector) -> None:
    """Let signals be handled by `signals`, and keep Lightning from waiting for the device in every step for them."""
    trainer._signal_connector = signals
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def signal_handling(trainer: Any) -> Any:
    """Give what handles a trainer's signals."""
    return trainer._signal_connector


def may_go_on_from_here(trainer: Any) -> bool:
    """Tell whether training could go on from here: not within accumulated gradients, nor before a validation."""
    epoch, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    return not (epoch.batch_progress.is_last_batch or epoch._should_accumulate() or epoch._should_check_val_fx(fetcher))


def take_given_checkpoint_alone(trainer: Any) -> None:
    """Keep Lightning from looking for a checkpoint where none is given: of an exception, SLURM or a registry."""
    trainer._checkpoint_connector._parse_ckpt_path = lambda _, ckpt_path, **__: ckpt_path


def synchronises_layers(strategy: Any) -> bool:
    """Tell whether a strategy was given `sync_batchnorm`, which is kept nowhere else."""
    return getattr(strategy, "_layer_sync", None) is not None


def restoring(trainer: Any) -> Any:
    """Give what restores checkpoints, whose steps fail without naming the file."""
    return trainer._checkpoint_connector


def checkpoint_path(connector: Any) -> Any:
    """Give the file that is being restored."""
    return connector._ckpt_path


def loaded_checkpoint(connector: Any) -> dict[str, Any]:
    """Give the content of the file that is being restored."""
    return connector._loaded_checkpoint


def logged_of_epoch(trainer: Any) -> dict[str, Any] | None:
    """Give what an epoch that is over has logged, which Lightning logs after its checkpoint; None within an epoch."""
    connector = trainer._logger_connector
    return connector.metrics["log"] if connector._first_loop_iter is None else None


def steps_trained(trainer: Any) -> int:
    """Count the batches after which an optimizer stepped, by which Lightning numbers the rows of loggers."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def running_means(trainer: Any) -> dict[str, Any]:
    """Give the means that are being accumulated within an epoch, which Lightning's checkpoints lack.

    Each has `value`, a sum, and `cumulated_batch_size`: those of `self.log`, and those of `training.logging`.
    """
    means = {}
    for key, logged in (trainer._results or {}).items():
        if not logged.is_tensor and hasattr(logged.value, "cumulated_batch_size"):
            means[key] = logged.value
        elif logged.is_tensor and logged.meta.is_mean_reduction and logged.meta.on_epoch:
            means[key] = logged
    return means


def subcommand_parser(line: Any, subcommand: str) -> Any:
    """Give the parser of one subcommand, which `LightningCLI` builds within its own parser."""
    return line._subcommand_parsers[subcommand]


def typed_arguments(parser: Any) -> Iterator[tuple[str, Any]]:
    """Give name and type of a parser's arguments; argparse has no list of them, and jsonargparse none of the types."""
    for action in parser._actions:
        if hasattr(action, "_typehint"):
            yield action.dest, action._typehint


def import_verdicts() -> Any:
    """Give what configurations may import: it can be set (`set_parsing_settings`), and not read or set back."""
    return parsing_settings["import_path_verdicts"]


def set_import_verdicts(verdicts: Any) -> None:
    """Set back what configurations may import."""
    parsing_settings["import_path_verdicts"] = verdicts
