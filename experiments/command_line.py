"""The commands `fit`, `validate`, `test`, `predict`: LightningCLI with run directories, resuming and short errors."""

import contextlib
import logging
import os
import re
import shutil
import signal
import sys
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import set_dumper
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from datamodules.files.whole_files import write_text
from experiments.arguments import COMPLETING, LARGEST_SEED, PROGRAM
from experiments.config_files import (
    PROJECT,
    dotted,
    dump_yaml,
    load_yaml,
    located,
    mapping_of,
    reject_old_keys,
    similar_file,
    text_of,
    with_base,
    with_new_keys,
)
from experiments.launching.preflight import metrics_of_short_run
from experiments.lightning_internals import subcommand_parser, take_given_checkpoint_alone
from experiments.options.compile_network import CompileNetwork
from experiments.options.trainer_options import of_an_option, refuse_options
from experiments.parsing.call_arguments import config_files, value_of, with_folder_of_logger, with_latest, with_restart
from experiments.parsing.class_names import with_full_names
from experiments.parsing.class_paths import imported
from experiments.parsing.data_before_model import check_captioned_images, count_classes
from experiments.parsing.guards import Guards, check_guards, from_list
from experiments.parsing.parser import Parser
from experiments.parsing.readable_errors import lost_process, readable
from experiments.progress_bar import WholeRun
from experiments.results import final_metrics, terminal
from experiments.run_directory import (
    WEIGHTS,
    WholeCheckpoints,
    add_test_metrics,
    check_checkpoint,
    clear,
    has_checkpoint,
    latest_checkpoint,
    make_directory,
    name_in_errors,
    new_run_directory,
    read_checkpoint,
    refuse_fewer_epochs,
    tested_weights,
    write_test_metrics,
    writing,
)
from experiments.saving.checkpoints import Checkpoints
from experiments.saving.end_of_training import ResumableEnd
from experiments.saving.given_callbacks import fit_in
from experiments.saving.metrics_table import MetricsTable, ResumableMetrics
from experiments.saving.stop_signals import StopSignals
from experiments.strangers import known_imports, settings_of_run
from experiments.throughput import Throughput
from lightning_modules.interfaces import Generator, GivenLabels, Pretrained, Resumable

set_dumper("yaml", dump_yaml)
DEFAULTS = PROJECT / "configs" / "defaults.yaml"
CALL_ONLY = {  # arguments that apply to a single call and are not saved in config.yaml
    *("config", "resume", "run_directory", "test_after_fit"),
    *("ckpt_path", "weights_only", "verbose", "return_predictions"),
}


class ReadsTestSet(Callback):
    """If a test follows training, set up the test set before training, so that missing files are reported early."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and data is not None:
            data.setup("test")


class SaveConfig(SaveConfigCallback):
    """Write `config.yaml` atomically, without arguments that apply only to a single call."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        directory = trainer.log_dir  # a broadcast, so every rank reads it
        if self.already_saved or directory is None or not trainer.is_global_zero:
            return
        self.already_saved = True
        text = self._text()
        if stage == "fit":
            settings = dotted(load_yaml(text))
            for logger in trainer.loggers:
                logger.log_hyperparams(settings)
        path = Path(directory, "config.yaml")
        if stage != "fit" and path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        given = self.config.get("ckpt_path") if stage == "fit" else None
        begins = None if given is None else Path(given).absolute()
        own = begins is None or begins.is_relative_to(path.parent.absolute())
        write_text(path, text if own else self._text(str(begins)))

    def _text(self, begins_from: str | None = None) -> str:
        """Dump the configuration; `begins_from` is the checkpoint (of a different run) that this run starts from."""
        config = self.config.clone()
        for key in CALL_ONLY:
            config.pop(key, None)
        if begins_from is not None:
            config.ckpt_path = begins_from
        return self.parser.dump(config, skip_none=False, skip_validation=True)


class CommandLine(LightningCLI):
    """The command line of one subcommand.

    Args:
        args: subcommand and its arguments.
        run: whether to run the subcommand. False only parses the arguments and instantiates the classes.
    """

    def __init__(self, args: list[str], run: bool = True) -> None:
        if not DEFAULTS.is_file():
            raise FileNotFoundError(f"{DEFAULTS} does not exist: install noiseworks again, with its configurations")
        self.requested, *self.arguments = args
        self.run = run
        self.held = contextlib.ExitStack()
        self.imports = contextlib.ExitStack()
        self.begun = False
        """Whether this call created the run directory."""
        args = with_folder_of_logger(with_restart(with_latest(with_full_names(args))))
        self.resumed = value_of(args, "--resume")
        if self.resumed is not None:
            config = Path(self.resumed, "config.yaml")
            if not os.path.isfile(config):
                raise FileNotFoundError(f"{self.resumed} cannot be resumed: {config} does not exist")
            self.began_from = mapping_of(config).get("ckpt_path")
            saved = settings_of_run(Path(self.resumed), CALL_ONLY, args[1:])
            settings = with_new_keys(from_list(saved, config))
        self.config_files = config_files(args)
        for file in self.config_files:
            path = located(Path(file))
            if os.path.isfile(path):
                for each in with_base(path):  # rejects other YAML files before anything is loaded
                    check_guards(mapping_of(each), each)
                    reject_old_keys(mapping_of(each), each)
            elif re.match(r"\w+:(//|:)", file):
                raise ValueError(f"--config {file} is a URL: download the file and give its path")
            elif ":" not in file and not os.path.exists(path):  # not inline YAML
                raise FileNotFoundError(
                    f"--config {file} does not exist (working directory: {Path.cwd()}){similar_file(path)}"
                )
        # These warnings are shown in every run, and the user cannot do anything about them.
        for message in (
            r".*treespec, LeafSpec.*",
            "LightningCLI's args parameter.*",
            "Be aware that when using `ckpt_path`.*",
            "Total length of `list` across ranks is zero.*",  # if there is no validation set
        ):
            warnings.filterwarnings("ignore", message=message)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
            lambda r: "litlogger" not in r.getMessage()
        )
        if self.resumed is not None:
            files = [path for file in self.config_files if os.path.isfile(path := located(Path(file)))]
            said = [*args, *(text_of(each) for file in files for each in with_base(file))]
            self.imports.enter_context(known_imports(settings, said, Path(self.resumed)))
            args = [args[0], "--config", dump_yaml(settings), "--ckpt_path=null", *args[1:]]
        with self.imports:
            self._begin(args)

    def _begin(self, args: list[str]) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={
                "prog": PROGRAM,
                "exit_on_error": False,
                "allow_abbrev": False,
                self.requested: {"default_config_files": [str(DEFAULTS)], "exit_on_error": False},
            },
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return only the requested subcommand, because building the parsers of all four subcommands takes seconds."""
        return {self.requested: LightningCLI.subcommands()[self.requested]}

    def _run_subcommand(self, subcommand: str) -> None:
        if not self.run:
            return
        try:
            super()._run_subcommand(subcommand)
        except ValueError as error:
            self.measured = getattr(error, "test_metrics", {})
            if subcommand != "fit" or not self.measured:
                raise
            if self.trainer.is_global_zero:
                print(*final_metrics(self.measured), f"Ended early because {error}", sep="\n")
                if self.config.fit.test_after_fit:
                    write_test_metrics(self.run_directory, self.measured)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: checkpoints contain no hyperparameters here, and `check_checkpoint` reports damaged files."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Guards, "guards", instantiate=True)
        parser.add_class_arguments(Checkpoints, "checkpoint", instantiate=True)
        parser.add_argument(
            "--resume",
            type=str,
            default=None,
            help="Run directory to resume, or `latest` for the most recent run (of the file in --config, if given).",
        )
        parser.add_argument(
            "--run_directory",
            type=str,
            default=None,
            help="Directory of the results; default: runs/<method>/<config>/<timestamp>, or that of --resume.",
        )
        parser.add_argument(
            "--compile",
            type=bool | str,
            default=False,
            help="Compile model.network in fit: true for inductor, or the name of a torch.compile backend.",
        )
        if self.requested == "fit":
            parser.add_argument(
                "--test_after_fit", type=bool, default=False, help="After training, test checkpoint.test_checkpoint."
            )

    def _set_seed(self) -> None:
        seed = self.config[self.requested].seed_everything
        if not isinstance(seed, bool) and not 0 <= seed <= LARGEST_SEED:
            raise ValueError(f"seed_everything must be in 0 ... {LARGEST_SEED}, got {seed}")
        super()._set_seed()

    def __deepcopy__(self, memo: dict[int, Any]) -> "CommandLine":
        """Return self: optimizer factories refer to this object, and a copied module does not need trainer and data."""
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "a model built from a configuration refers to its parser and cannot be pickled: save its state_dict(), "
            "and rebuild it with load_run(RUN_DIRECTORY)"
        )

    def before_instantiate_classes(self) -> None:
        config = self.config[self.requested]
        count_classes(config)
        data = config.data.get("init_args") if config.data else None
        if data and "seed" in data and data.seed is None and not isinstance(config.seed_everything, bool):
            data.seed = config.seed_everything
        if self.run:
            check_captioned_images(config)
        if self.requested == "fit" and self.resumed and config.run_directory not in (None, self.resumed):
            raise ValueError(
                f"--resume {self.resumed} continues in that directory: omit --run_directory {config.run_directory}"
            )
        self.run_directory = Path(config.run_directory or self.resumed or new_run_directory(self.config_files))
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            if self.requested == "fit" and self.run:
                self._protect_what_is_there()
            there = os.path.isdir(self.run_directory) and bool(os.listdir(self.run_directory))
            make_directory(self.run_directory)
            if self.run:
                self.held.enter_context(writing(self.run_directory))
                if self.requested == "fit" and Path(self.run_directory, "config.yaml").is_file():
                    clear(self.run_directory)
            self.begun = not there
        if self.requested == "predict":
            config.return_predictions = False  # predictions are written to disk batch by batch
        config.weights_only = True  # never unpickle code, whatever a configuration sets
        # The dump is for modules that save hyperparameters. Lightning's own dump would validate all values again, which
        # is slower.
        dumped = self.parser.dump(self.config, skip_link_targets=False, skip_none=False, skip_validation=True)
        self.config_dump = load_yaml(dumped)[self.requested]

    def _protect_what_is_there(self) -> None:
        """Reject training in the directory of a different run, and resuming with a different model, dataset or seed.

        Raises:
            ValueError: if the directory contains a different run, or if a setting differs. The message names the
                directory, or the first key that differs and both values.
        """
        if self.resumed is None:
            if has_checkpoint(self.run_directory):
                raise ValueError(
                    f"the run directory {self.run_directory} contains a trained run: resume it with "
                    f"--resume {self.run_directory}, or choose another --run_directory"
                )
            return
        saved = load_yaml(Path(self.resumed, "config.yaml").read_text(encoding="utf-8"))
        now = load_yaml(self.parser.dump(self.config, skip_none=False, skip_validation=True))[self.requested]
        if changed := differing(saved, now, changeable(now)):
            key, (old, new) = min(changed.items())
            raise ValueError(
                f"{self.resumed} was trained with {key} {old!r}, and cannot be resumed with {new!r}: "
                f"to start a new run from its weights, use --ckpt_path without --resume"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = self.config_init[self.requested]
        table = MetricsTable(self.run_directory, continued=self.requested != "fit" or self.resumed is not None)
        own = options.trainer.logger
        loggers = own if isinstance(own, list) else [own] if own not in (None, True, False) else []
        events = TensorBoardLogger(self.run_directory, name="tensorboard", version="", log_graph=False)
        self.checkpoints: Checkpoints = options.checkpoint
        callbacks = [*options.guards.callbacks, *(options.trainer.callbacks or []), ResumableMetrics(table)]
        if self.requested == "fit":
            callbacks.append(Throughput())
        if self.requested == "fit" and options.test_after_fit:
            callbacks.append(ReadsTestSet())
        if self.requested == "fit" and options.compile:
            callbacks.append(CompileNetwork("inductor" if options.compile is True else options.compile))
        shown, own_bar = options["trainer"]["enable_progress_bar"], any(isinstance(e, ProgressBar) for e in callbacks)
        if shown is None and not own_bar and not terminal().is_terminal:
            kwargs["enable_progress_bar"] = False
        elif shown is not False and not own_bar:
            callbacks.append(WholeRun(self.checkpoints.monitor, self._validates_on_given_labels))
        saves = self.requested == "fit" and not options["trainer"]["fast_dev_run"]
        if saves:
            begins = self.resumed is None and self._given_checkpoint() is None
            callbacks += self.checkpoints.callbacks(
                self.run_directory, partial(metrics_of_short_run, self.arguments) if begins else None
            )
            if begins and self.checkpoints.monitor is not None:
                kwargs["num_sanity_val_steps"] = options["trainer"]["num_sanity_val_steps"] or 1
        fit_in(callbacks, self.run_directory)
        trainer = super().instantiate_trainer(
            logger=[table, events, *loggers],
            callbacks=callbacks,
            default_root_dir=str(self.run_directory),
            enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
            **kwargs,
        )
        if isinstance(trainer.strategy.checkpoint_io, TorchCheckpointIO):
            trainer.strategy.checkpoint_io = WholeCheckpoints(self.run_directory)
        take_given_checkpoint_alone(trainer)
        name_in_errors(trainer)
        ResumableEnd.of(trainer)
        self.stop_signals = StopSignals(trainer)
        return trainer

    def after_instantiate_classes(self) -> None:
        # Convert the module here. Lightning converts it after loading a checkpoint, which would round float64 to
        # float32.
        self.model = self.trainer.precision_plugin.convert_module(self.model)

    def before_fit(self) -> None:
        """Resume from the latest checkpoint, or restart a run that was killed before its first checkpoint."""
        refuse_options(self.model, self.trainer)
        if self.resumed is not None and self._given_checkpoint() is None:
            if has_checkpoint(self.run_directory):
                self._set_checkpoint(latest_checkpoint(self.run_directory))
            elif self.began_from is not None:
                self._set_checkpoint(Path(self.began_from))
        self._check_given_checkpoint()
        if path := self._given_checkpoint():
            refuse_fewer_epochs(Path(path), self.trainer.max_epochs)

    @property
    def _validates_on_given_labels(self) -> bool:
        """Whether validation labels have the same noise as training labels."""
        return isinstance(self.datamodule, GivenLabels) and self.datamodule.adds_label_noise

    def after_fit(self) -> None:
        if self.stop_signals.asked:
            self.stop_signals.stop()
        self._say_where()
        final = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        if self.config.fit.test_after_fit:
            saved = Path(str(self.trainer.log_dir), "checkpoints")
            metrics = self._tested(saved / f"{self.checkpoints.test_checkpoint}.ckpt")
            if self.checkpoints.also_test_best and self.checkpoints.test_checkpoint == "last":
                best = self._tested(saved / "best.ckpt")
                metrics |= {f"best_epoch/{name}": value for name, value in best.items()}
            directory = self.trainer.log_dir  # a broadcast, so every rank reads it
            if self.trainer.is_global_zero and directory is not None:
                write_test_metrics(Path(directory), metrics)
            final |= metrics
        self.measured = final
        if self.trainer.is_global_zero:
            print(*final_metrics(final, self._validates_on_given_labels), sep="\n")

    def _say_where(self) -> None:
        directory = self.trainer.log_dir  # a broadcast, so every rank reads it
        if directory is not None:
            rank_zero_info(f"Run directory: {directory}")

    def _tested(self, checkpoint: Path | None) -> dict[str, float]:
        path = None if checkpoint is None or self.trainer.fast_dev_run else str(checkpoint)  # type: ignore[attr-defined]
        if path is not None:
            read_checkpoint(
                Path(path)
            )  # rejects damaged files, without checking shapes, because weights may be sharded by now
        results = self.trainer.test(self.model, self.datamodule, path, verbose=False, weights_only=True)
        return {name: value for result in results for name, value in result.items()}

    def before_test(self) -> None:
        self._choose_checkpoint()

    before_validate = before_test

    def before_predict(self) -> None:
        if not is_overridden("predict_step", self.model):
            raise ValueError(_instead_of_prediction(self.model))
        self._choose_checkpoint()

    def test(self, **kwargs: Any) -> None:
        results = self.trainer.test(**kwargs)
        directory = self.trainer.log_dir  # a broadcast, so every rank reads it
        if self.trainer.is_global_zero and directory is not None:
            add_test_metrics(Path(directory), {name: value for result in results for name, value in result.items()})
        self._say_where()

    def after_predict(self) -> None:
        self._say_where()

    def _choose_checkpoint(self) -> None:
        """Choose the checkpoint to load. If a run directory is given, its configuration selects the checkpoint.

        Raises:
            ValueError: if no checkpoint is given and the module has trainable weights but no pre-trained weights.
        """
        if self._given_checkpoint() == "none":
            self._set_checkpoint(None)
            return
        if self.resumed is None and self._given_checkpoint() is None and self._untrained():
            raise ValueError(
                f"{self.requested} would use initial weights of {type(self.model).__name__}, since no trained "
                f"weights are given: use --resume RUN_DIRECTORY or --ckpt_path FILE, or --ckpt_path none to confirm"
            )
        if self.resumed is not None and self._given_checkpoint() is None:
            path = tested_weights(Path(self.resumed), self.checkpoints.test_checkpoint)
            if path.name == WEIGHTS:  # weights of a pushed run, which lack the state that Lightning would restore
                check_checkpoint(path, self.model)
                self.model.load_state_dict(read_checkpoint(path)["state_dict"])
                return
            self._set_checkpoint(path)
        self._check_given_checkpoint()

    def _given_checkpoint(self) -> str | None:
        return self.config[self.requested].ckpt_path

    def _untrained(self) -> bool:
        """Return whether the module has trainable weights, and none of them belong to a network that was loaded."""
        loaded = [network for network in self.model.modules() if isinstance(network, Pretrained)]
        trains = is_overridden("training_step", self.model) and _trainable(self.model)
        dry = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        return trains and not dry and not any(map(_trainable, loaded))

    def _set_checkpoint(self, path: Path | None) -> None:
        given = None if path is None else str(path)
        self.config[self.requested].ckpt_path = given
        self.config_init[self.requested].ckpt_path = given

    def _check_given_checkpoint(self) -> None:
        path = self._given_checkpoint()
        if path is not None:
            check_checkpoint(Path(path), self.model)


def _trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


class ParsedOnly(CommandLine):
    """A command line that stops after parsing. Its `parser` can then parse and instantiate many configurations."""

    def before_instantiate_classes(self) -> None: ...
    def instantiate_classes(self) -> None: ...
    def after_instantiate_classes(self) -> None: ...
    def _run_subcommand(self, subcommand: str) -> None: ...


class _Built(Exception):
    """Raised when a parser has been built, to stop before parsing."""


class Unparsed(CommandLine):
    """A command line that stops before parsing."""

    def parse_arguments(self, *_: Any) -> None:
        raise _Built


def parser_of(subcommand: str) -> Any:
    """Build the parser of a subcommand."""
    line = Unparsed.__new__(Unparsed)
    with contextlib.suppress(_Built):
        line.__init__([subcommand])  # type: ignore[misc]
    return subcommand_parser(line, subcommand)


def differing(
    saved: dict[str, Any], now: dict[str, Any], may_change: Mapping[str, Collection[str]]
) -> dict[str, tuple[Any, Any]]:
    """Find changed settings among those that a resumed run must keep: model, data and seed.

    Keys that are missing in the saved configuration belong to newer arguments. They are ignored.

    Args:
        saved: settings of the run.
        now: settings of this call.
        may_change: see `changeable`.

    Returns:
        The saved and the current value of each changed key, such as `data.init_args.batch_size`.
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
    """Return the keys of model and data that may change when a run is resumed, as their classes declare them."""
    named = {key: imported(settings[key]["class_path"]) for key in ("model", "data") if settings.get(key)}
    return {key: kind.resume_may_change for key, kind in named.items() if isinstance(kind, Resumable)}


def _instead_of_prediction(model: LightningModule) -> str:
    """Return an error message for a module without `predict_step`. It says what the module offers instead."""
    can = []
    if isinstance(model, Generator):
        can.append(
            "it samples images: generate --resume RUN_DIRECTORY writes them, and test --config "
            "configs/callbacks/fid.yaml evaluates"
        )
    if is_overridden("test_step", model):
        can.append("test --resume RUN_DIRECTORY evaluates it")
    return f"{type(model).__name__} predicts nothing: {', and '.join(can) or 'its results are what fit writes'}"


STARTED = {".lock", "config.yaml", "metrics.csv", "labels.csv", "hparams.yaml"}
"""Files that a run writes before its first result."""


def _remove_failed_start(line: CommandLine | None) -> None:
    """Remove the run directory that this call created, if the call failed before its first batch and result."""
    if line is None or not getattr(line, "begun", False):
        return
    if (trainer := getattr(line, "trainer", None)) is not None:
        loops = trainer.fit_loop.epoch_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop
        if any(loop.batch_progress.total.ready > 0 for loop in loops):
            return
    files = [path.name for path in line.run_directory.rglob("*") if path.is_file()]
    if all(name in STARTED or name.startswith("events.out.tfevents") for name in files):
        line.held.close()
        shutil.rmtree(line.run_directory, ignore_errors=True)


def run(args: list[str]) -> int:
    """Run a subcommand, and report user errors in one sentence; the traceback is saved next to the results.

    Args:
        args: subcommand and its arguments.

    Returns:
        The exit status: 0 after success, 1 after an error, 2 after an invalid argument, and 143 if SIGTERM ended the
        run. Status 143 tells the parent process that the run is incomplete.
    """
    if COMPLETING:
        parser_of(args[0]).parse_args([])  # prints completions before parsing, and ends the process
    line: CommandLine | None = None
    try:
        line = CommandLine.__new__(CommandLine)
        line.__init__(args)  # type: ignore[misc]
    except ArgumentError as error:
        print(f"error: {readable(error)}", file=sys.stderr)
        return 2
    except SIGTERMException:
        place = getattr(line, "run_directory", "RUN_DIRECTORY")
        print(f"error: the run was ended by SIGTERM; resume it with --resume {place}", file=sys.stderr)
        if line is not None:
            line.stop_signals.ask_for_another_turn()
        return 128 + signal.SIGTERM
    except (ValueError, TypeError, OSError, ImportError, MisconfigurationException, RuntimeError) as error:
        lost = lost_process(error) or of_an_option(error, getattr(getattr(line, "trainer", None), "precision", None))
        if isinstance(error, RuntimeError) and lost is None:
            _remove_failed_start(line)
            raise
        message = lost or readable(error)
        place = getattr(line, "run_directory", None)
        _remove_failed_start(line)
        if place is not None and os.path.isdir(place):
            kept = place / "traceback.txt"
            with contextlib.suppress(OSError):  # the disk may be full
                kept.write_text(traceback.format_exc())
                message += f" (traceback: {kept})"
        elif os.environ.get("NOISEWORKS_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return 1
    finally:
        if line is not None and hasattr(line, "held"):
            line.held.close()
        # Otherwise, threads of the process group can outlive their resources at interpreter exit, and abort the
        # process.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0
