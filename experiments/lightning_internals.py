"""All uses of private names of Lightning and jsonargparse that have no public equivalent, with their reasons.

LightningModules have a separate list in `lightning_modules/lightning_internals.py`. No other file uses private names. A
test fails if an upgrade moves a private name, or a method that our classes override. `pyproject.toml` limits the
versions of both packages.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse._stubs_resolver
from jsonargparse._common import parsing_settings
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector


class FitLoop(_FitLoop):
    """Base class of our loop. Lightning's own loop, which is not public, returns at once if no training step remains.

    If `max_steps` is set, Lightning's loop repeats the end of an epoch when it resumes from a checkpoint of this end.
    The epoch is counted twice, and all later epochs have the sampling order of their successors.
    """

    def _iteration_based_training(self) -> bool:
        """Return False, so that a run with `max_steps` resumes as one with `max_epochs` alone does."""
        return False


SignalConnector = _SignalConnector
"""Class that we override, because its signal handlers wait for other ranks and cannot be configured or disabled."""


def handle_signals(trainer: Any, signals: SignalConnector) -> None:
    """Replace the object that handles a trainer's signals with `signals`.

    Lightning's check for received signals is removed, because it causes a host sync in every step.
    """
    trainer._signal_connector = signals
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def signal_handling(trainer: Any) -> Any:
    """Return the object that handles a trainer's signals."""
    return trainer._signal_connector


def may_go_on_from_here(trainer: Any) -> bool:
    """Return whether training could be resumed from a checkpoint that is saved now.

    This is not possible at the end of an epoch, while gradients are accumulated, or directly before validation.
    """
    epoch, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    return not (epoch.batch_progress.is_last_batch or epoch._should_accumulate() or epoch._should_check_val_fx(fetcher))


def take_given_checkpoint_alone(trainer: Any) -> None:
    """Prevent Lightning from searching for a checkpoint if no checkpoint is given."""
    trainer._checkpoint_connector._parse_ckpt_path = lambda _, ckpt_path, **__: ckpt_path


def synchronises_layers(strategy: Any) -> bool:
    """Return whether `sync_batchnorm` is enabled. Only the strategy stores this setting."""
    return getattr(strategy, "_layer_sync", None) is not None


def restoring(trainer: Any) -> Any:
    """Return the object that restores checkpoints. Its errors do not name the checkpoint file."""
    return trainer._checkpoint_connector


def checkpoint_path(connector: Any) -> Any:
    """Return the path of the checkpoint that is being restored."""
    return connector._ckpt_path


def loaded_checkpoint(connector: Any) -> dict[str, Any]:
    """Return the content of the checkpoint that is being restored."""
    return connector._loaded_checkpoint


def logged_of_epoch(trainer: Any) -> dict[str, Any] | None:
    """Return the metrics of an epoch that has just ended, or None within an epoch.

    Lightning logs these metrics after the checkpoint is saved.
    """
    connector = trainer._logger_connector
    return connector.metrics["log"] if connector._first_loop_iter is None else None


def steps_trained(trainer: Any) -> int:
    """Return the number of batches with an optimizer step. Lightning's loggers use it as the step number."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def running_means(trainer: Any) -> dict[str, Any]:
    """Return the running means of an epoch's metrics. Lightning's checkpoints do not contain them.

    Each running mean has a sum `value` and a `cumulated_batch_size`. Its values were logged by `self.log` or
    `training.logging`.
    """
    means = {}
    for key, logged in (trainer._results or {}).items():
        if not logged.is_tensor and hasattr(logged.value, "cumulated_batch_size"):
            means[key] = logged.value
        elif logged.is_tensor and logged.meta.is_mean_reduction and logged.meta.on_epoch:
            means[key] = logged
    return means


def subcommand_parser(line: Any, subcommand: str) -> Any:
    """Return the parser of one subcommand. `LightningCLI` nests this parser in its main parser."""
    return line._subcommand_parsers[subcommand]


def typed_arguments(parser: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and type of each argument of a parser. There is no public function for this."""
    for action in parser._actions:
        if hasattr(action, "_typehint"):
            yield action.dest, action._typehint


def import_verdicts() -> Any:
    """Return jsonargparse's setting of allowed imports, for which only a setter is public (`set_parsing_settings`)."""
    return parsing_settings["import_path_verdicts"]


def set_import_verdicts(verdicts: Any) -> None:
    """Restore the setting of allowed imports."""
    parsing_settings["import_path_verdicts"] = verdicts


def resolve_stubs_without_a_process() -> None:
    """Give jsonargparse the import path of this process.

    Otherwise, it starts `python -c` to ask for one, which would import modules from the working directory.
    """
    stubs: Any = jsonargparse._stubs_resolver
    context = stubs.tc.get_search_context(search_path=[Path(each) for each in sys.path if each])
    stubs.stubs_resolver = stubs.StubsResolver(search_context=context)
