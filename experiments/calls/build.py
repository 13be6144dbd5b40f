"""Build a run from parsed settings: the second of the three calls."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from datamodules.files.whole_files import write_text
from experiments.arguments import LARGEST_SEED
from experiments.calls.parse import CALL_ONLY, Parsed
from experiments.config_files import flatten_settings, load_yaml
from experiments.launching.preflight import metrics_of_short_run
from experiments.lightning_internals import subcommand_parser, take_given_checkpoint_alone
from experiments.options.compile_network import CompileNetwork
from experiments.parsing.class_paths import import_class_paths
from experiments.parsing.data_before_model import check_captioned_images, count_classes, data_of
from experiments.progress_bar import WholeRun
from experiments.results import terminal
from experiments.run_directory import (
    WholeCheckpoints,
    clear,
    has_checkpoint,
    make_directory,
    name_in_errors,
    writing,
)
from experiments.saving.checkpoints import Checkpoints
from experiments.saving.end_of_training import ResumableEnd
from experiments.saving.environment import environment, header, with_own_environment
from experiments.saving.given_callbacks import fit_in
from experiments.saving.metrics_table import MetricsTable, ResumableMetrics
from experiments.saving.stop_signals import StopSignals
from experiments.throughput import Throughput
from lightning_modules.interfaces import GivenLabels, Resumable


class ReadsTestSet(Callback):
    """If a test follows training, set up the test set before training, so that missing files are reported early."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and data is not None:
            data.setup("test")


class SaveConfig(SaveConfigCallback):
    """Write `config.yaml` atomically, without arguments that apply only to a single call, below the environment.

    For a prediction with a trained run, whose `config.yaml` stays, `predict.yaml` records settings and checkpoint.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        directory = trainer.log_dir  # a broadcast, so every rank reads it
        if self.already_saved or directory is None or not trainer.is_global_zero:
            return
        self.already_saved = True
        text = self._text()
        if stage == "fit":
            settings = flatten_settings(load_yaml(text))
            for logger in trainer.loggers:
                logger.log_hyperparams(settings)
        path = Path(directory, "config.yaml")
        if stage != "fit" and path.exists():
            if stage == "predict":
                checkpoint = self.config.get("ckpt_path")
                write_text(path.with_name("predict.yaml"), header([environment()]) + self._text(checkpoint))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        given = self.config.get("ckpt_path") if stage == "fit" else None
        begins = None if given is None else Path(given).absolute()
        own = begins is None or begins.is_relative_to(path.parent.absolute())
        lines = header(with_own_environment(path.parent))
        write_text(path, lines + (text if own else self._text(str(begins))))

    def _text(self, begins_from: str | None = None) -> str:
        """Dump the configuration; `begins_from` is the checkpoint (of a different run) that this run starts from."""
        config = self.config.clone()
        for key in CALL_ONLY:
            config.pop(key, None)
        if begins_from is not None:
            config.ckpt_path = begins_from
        return self.parser.dump(config, skip_none=False, skip_validation=True)


@dataclass
class BuiltRun:
    """A run that is built and not executed."""

    parsed: Parsed
    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer
    checkpoints: Checkpoints
    stop_signals: StopSignals
    checkpoint: str | None = field(init=False)
    """Path of the checkpoint to load."""

    def __post_init__(self) -> None:
        self.checkpoint = self.parsed.settings.ckpt_path

    @property
    def log_dir(self) -> Path | None:
        """The run directory on all ranks. Its name is broadcast, so all ranks must read it."""
        directory = self.trainer.log_dir
        return None if directory is None else Path(directory)

    @property
    def adds_label_noise(self) -> bool:
        return adds_label_noise(self.datamodule)


def adds_label_noise(data: Any) -> bool:
    """Return whether validation labels have the same noise as training labels."""
    return isinstance(data, GivenLabels) and data.adds_label_noise


def build(parsed: Parsed, runs: bool = True) -> BuiltRun:
    """Build model, data and trainer. This is the second of three calls: `execute(build(parse(args)))`.

    Args:
        parsed: settings; they are completed in place.
        runs: whether the run will be executed. If so, its directory is locked, and must not contain another run.

    Raises:
        ValueError: if a setting is rejected, or the run directory contains a different run.
    """
    with parsed.imports():
        set_seed(parsed)
        complete_settings(parsed, runs)
        claim_directory(parsed, runs)
        # The dump is for modules that save hyperparameters. Lightning's own dump would validate all values again,
        # which is slower.
        dump = partial(parsed.grammar.parser.dump, skip_none=False, skip_validation=True)
        parsed.grammar.config_dump = load_yaml(dump(parsed.config, skip_link_targets=False))[parsed.subcommand]
        built = parsed.grammar.parser.instantiate(parsed.config)[parsed.subcommand]
        data = built.get("data")
        trainer = trainer_of(parsed, built, data)
        # Convert the module here. Lightning converts it after loading a checkpoint, which would round float64 to
        # float32.
        model: Any = trainer.precision_plugin.convert_module(built.model)
        return BuiltRun(parsed, model, data, trainer, built.checkpoint, StopSignals(trainer))


def build_data(parsed: Parsed) -> LightningDataModule:
    """Build only the DataModule of a run. Nothing is written.

    Raises:
        ValueError: if a setting is rejected.
    """
    with parsed.imports():
        set_seed(parsed)
        seed_data(parsed.settings)
        return data_of(parsed.settings)


def set_seed(parsed: Parsed) -> None:
    seed = parsed.settings.seed_everything
    if not isinstance(seed, bool) and not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed_everything must be in 0 ... {LARGEST_SEED}, got {seed}")
    if seed is not False:
        parsed.settings.seed_everything = seed_everything(None if seed is True else seed, workers=True)


def complete_settings(parsed: Parsed, runs: bool) -> None:
    """Complete settings that depend on other settings, and check data that the model needs before it is built."""
    settings = parsed.settings
    count_classes(settings)
    seed_data(settings)
    if runs:
        check_captioned_images(settings)
    if parsed.subcommand == "fit" and parsed.resumed and settings.run_directory not in (None, parsed.resumed):
        raise ValueError(
            f"--resume {parsed.resumed} continues in that directory: omit --run_directory {settings.run_directory}"
        )
    if parsed.subcommand == "predict":
        settings.return_predictions = False  # predictions are written to disk batch by batch
    settings.weights_only = True  # never unpickle code, whatever a configuration sets


def seed_data(settings: Namespace) -> None:
    """Give the seed of the run to data without a seed of their own."""
    data = settings.data.get("init_args") if settings.data else None
    for seeded in (data, data.get("loading")) if data else ():  # a user's own DataModule may have a seed of its own
        if seeded and "seed" in seeded and seeded.seed is None and not isinstance(settings.seed_everything, bool):
            seeded.seed = settings.seed_everything


def claim_directory(parsed: Parsed, runs: bool) -> None:
    """Create the run directory, and lock it for a run that will be executed."""
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return
    folder, fits = parsed.folder, parsed.subcommand == "fit" and runs
    if fits:
        protect_what_is_there(parsed)
    there = os.path.isdir(folder.path) and bool(os.listdir(folder.path))
    make_directory(folder.path)
    if runs:
        folder.held.enter_context(writing(folder.path))
        if fits and (folder.path / "config.yaml").is_file():
            clear(folder.path)
    folder.begun = not there


def protect_what_is_there(parsed: Parsed) -> None:
    """Reject training in the directory of a different run, and resuming with a different model, dataset or seed."""
    if parsed.resumed is None:
        if has_checkpoint(path := parsed.folder.path):
            raise ValueError(
                f"the run directory {path} contains a trained run: resume it with --resume {path}, or choose another "
                f"--run_directory"
            )
        return
    saved = load_yaml(Path(parsed.resumed, "config.yaml").read_text(encoding="utf-8"))
    dumped = parsed.grammar.parser.dump(parsed.config, skip_none=False, skip_validation=True)
    now = load_yaml(dumped)[parsed.subcommand]
    if changed := differing(saved, now, changeable(now)):
        key, (old, new) = min(changed.items())
        raise ValueError(
            f"{parsed.resumed} was trained with {key} {old!r}, and cannot be resumed with {new!r}: "
            f"to start a new run from its weights, use --ckpt_path without --resume"
        )


def differing(
    saved: dict[str, Any], now: dict[str, Any], may_change: Mapping[str, Collection[str]]
) -> dict[str, tuple[Any, Any]]:
    """Find changed settings among those that a resumed run must keep: model, data and seed.

    Keys that are missing in the saved configuration belong to newer arguments. They are ignored.
    The result has the saved and the current value of each changed key, such as `data.batch_size`.
    """
    found: dict[str, tuple[Any, Any]] = {}

    def compare(key: str, old: Any, new: Any) -> None:
        if isinstance(old, dict) and isinstance(new, dict) and old.get("class_path") == new.get("class_path"):
            for name in old:
                compare(f"{key}.{name}", old[name], new.get(name))
        elif old != new and key.rpartition(".")[2] not in may_change.get(key.partition(".")[0], ()):
            found[key.replace(".init_args.", ".")] = (old, new)

    for key in ("model", "data", "seed_everything"):
        if key in saved:
            compare(key, saved[key], now.get(key))
    return found


def changeable(settings: dict[str, Any]) -> dict[str, Collection[str]]:
    """Return the keys of model and data that may change when a run is resumed, as their classes declare them.

    The class paths in `settings` must have been checked, unlike those in the `config.yaml` of a run.
    """
    named = {key: import_class_paths(settings[key]["class_path"]) for key in ("model", "data") if settings.get(key)}
    return {key: kind.resume_may_change for key, kind in named.items() if isinstance(kind, Resumable)}


def trainer_of(parsed: Parsed, built: Namespace, data: Any) -> Trainer:
    """Build the trainer with its loggers, callbacks and guards; `built` are settings with instances of the classes."""
    path, fits, options = parsed.folder.path, parsed.subcommand == "fit", {**built.trainer}
    begins = fits and parsed.resumed is None and built.ckpt_path is None
    table = MetricsTable(path, continued=not fits or parsed.resumed is not None)
    own = options["logger"]
    loggers = own if isinstance(own, list) else [own] if own not in (None, True, False) else []
    events = TensorBoardLogger(path, name="tensorboard", version="", log_graph=False)
    checkpoints: Checkpoints = built.checkpoint
    callbacks = [*built.guards.callbacks, *(options["callbacks"] or []), ResumableMetrics(table)]
    if fits:
        callbacks.append(Throughput())
    if fits and built.test_after_fit:
        callbacks.append(ReadsTestSet())
    if fits and built.compile:
        callbacks.append(CompileNetwork("inductor" if built.compile is True else built.compile))
    shown, own_bar = options["enable_progress_bar"], any(isinstance(e, ProgressBar) for e in callbacks)
    if shown is None and not own_bar and not terminal().is_terminal:
        options["enable_progress_bar"] = False
    elif shown is not False and not own_bar:
        callbacks.append(WholeRun(checkpoints.monitor, adds_label_noise(data)))
    if fits and not options["fast_dev_run"]:
        short_run = partial(metrics_of_short_run, parsed.arguments) if begins else None
        callbacks += checkpoints.callbacks(path, short_run)
        if begins and checkpoints.monitor is not None:
            options["num_sanity_val_steps"] = options["num_sanity_val_steps"] or 1
    fit_in(callbacks, path)
    if not options["fast_dev_run"]:
        parser = subcommand_parser(parsed.grammar, parsed.subcommand)
        callbacks.append(SaveConfig(parser, parsed.settings))
    trainer = Trainer(
        **options
        | {
            "logger": [table, events, *loggers],
            "callbacks": callbacks,
            "default_root_dir": str(path),
            "enable_checkpointing": any(isinstance(each, Checkpoint) for each in callbacks),
        }
    )
    if isinstance(trainer.strategy.checkpoint_io, TorchCheckpointIO):
        trainer.strategy.checkpoint_io = WholeCheckpoints(path)
    take_given_checkpoint_alone(trainer)
    name_in_errors(trainer)
    ResumableEnd.of(trainer)
    return trainer
