"""`fit`, `validate`, `test` and `predict`: LightningCLI with a run directory, resumption and readable errors."""

import contextlib
import difflib
import importlib
import inspect
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from argparse import ArgumentError
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from experiments.results import write_text
from experiments.run_directory import (
    MetricsTable,
    ResumableMetrics,
    WholeCheckpoints,
    check_checkpoint,
    latest_checkpoint,
    make_directory,
    new_run_directory,
    write_test_metrics,
)

DEFAULTS = Path(__file__).resolve().parent.parent / "configs" / "defaults.yaml"
CALL_ONLY = {  # arguments of one call, which the saved configuration leaves out
    *("config", "resume", "run_directory", "test_after_fit"),
    *("ckpt_path", "weights_only", "verbose", "return_predictions"),
}


@dataclass
class Checkpoints:
    """What a run saves, and which of it is tested.

    Args:
        tested: the checkpoint that `test`, `validate` and `predict` load: the `best` one, or the `last`, as the paper
            does.
        monitor: metric that says which epoch is best, `val/accuracy` for example; None keeps the last one alone.
        mode: whether the best is the greatest (`max`) or the least (`min`).
        also_test_best: report the best epoch's test metrics too, as `best_epoch/test/...`, where the last one is
            tested.
        every_n_epochs: epochs between two savings of the last checkpoint.
        every_n_steps: also save within epochs, each time that so many batches were trained on.
    """

    tested: Literal["best", "last"] = "last"
    monitor: str | None = None
    mode: Literal["min", "max"] = "max"
    also_test_best: bool = False
    every_n_epochs: int = 1
    every_n_steps: int | None = None

    def __post_init__(self) -> None:
        if self.monitor is None and (self.tested == "best" or self.also_test_best):
            raise ValueError(
                "checkpoint.monitor must name a metric where checkpoint.tested is best or also_test_best is true"
            )

    def callbacks(self, directory: Path) -> list[Callback]:
        """The savers: best before last, so that the last checkpoint knows of the best one."""
        shared: dict[str, Any] = {"dirpath": directory / "checkpoints", "enable_version_counter": False}
        savers: list[Callback] = []
        if self.monitor is not None:
            savers.append(
                ModelCheckpoint(
                    filename="best", monitor=self.monitor, mode=self.mode, save_on_train_epoch_end=True, **shared
                )
            )
        savers.append(
            ModelCheckpoint(filename="last", every_n_epochs=self.every_n_epochs, save_on_train_epoch_end=True, **shared)
        )
        if self.every_n_steps is not None:
            savers.append(StepCheckpoint(filename="step", every_n_train_steps=self.every_n_steps, **shared))
        return savers


class StepCheckpoint(ModelCheckpoint):
    """Saves within an epoch. Not after its last batch: Lightning would skip the end of that epoch when it resumes."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            super().on_train_batch_end(trainer, *args, **kwargs)


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml`, whole or not at all, without what belongs to one call only."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        directory = trainer.log_dir  # broadcast: every process asks
        if self.already_saved or directory is None or not trainer.is_global_zero:
            return
        self.already_saved = True
        path = Path(directory, "config.yaml")
        if stage != "fit" and path.exists():
            return
        config = self.config.clone()
        for key in CALL_ONLY:
            config.pop(key, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.parser.dump(config, skip_none=False, skip_validation=True))


class CommandLine(LightningCLI):
    """The command line of one subcommand.

    Args:
        args: the subcommand and its arguments.
        run: False parses and instantiates alone.
    """

    def __init__(self, args: list[str], run: bool = True) -> None:
        self.requested = args[0]
        self.run = run
        self.resumed = _value_of(args, "--resume")
        if self.resumed is not None:
            config = Path(self.resumed, "config.yaml")
            if not config.is_file():
                raise FileNotFoundError(f"{self.resumed} cannot be resumed: {config} does not exist")
            args = [args[0], "--config", str(config), *args[1:]]
        self.config_files = [value for flag, value in pairwise(args) if flag in ("--config", "-c")]
        self.config_files += [arg.split("=", 1)[1] for arg in args if arg.startswith("--config=")]
        # Said on every run, and nothing a user can act on.
        for message in (
            r".*treespec, LeafSpec.*",
            "LightningCLI's args parameter.*",
            "Be aware that when using `ckpt_path`.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
            lambda r: "litlogger" not in r.getMessage()
        )
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": "train.py",
                "exit_on_error": False,
                self.requested: {"default_config_files": [str(DEFAULTS)], "exit_on_error": False},
            },
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the one that was asked for: the parsers of all four take seconds to build."""
        return {self.requested: LightningCLI.subcommands()[self.requested]}

    def _run_subcommand(self, subcommand: str) -> None:
        if self.run:
            super()._run_subcommand(subcommand)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--guards", type=list[Callback], default=[], help="Callbacks of every run, before the trainer's own."
        )
        parser.add_class_arguments(Checkpoints, "checkpoint", instantiate=True)
        parser.add_argument(
            "--resume", type=str, default=None, help="Run directory of an interrupted run that goes on."
        )
        parser.add_argument(
            "--run_directory",
            type=str,
            default=None,
            help="Where results go; runs/<method>/<config>/<timestamp> by default.",
        )
        if self.requested == "fit":
            parser.add_argument(
                "--test_after_fit", type=bool, default=False, help="Test the configured checkpoint after training."
            )

    def before_instantiate_classes(self) -> None:
        config = self.config[self.requested]
        data = config.data.get("init_args") if config.data else None
        if data and "seed" in data and data.seed is None and config.seed_everything is not True:
            data.seed = config.seed_everything
        self.run_directory = Path(self.resumed or config.run_directory or new_run_directory(self.config_files))
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            make_directory(self.run_directory)
        if self.requested == "predict":
            config.return_predictions = False  # they are written to disk as they come
        config.weights_only = True if config.get("weights_only") is None else config.weights_only

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = self.config_init[self.requested]
        table = MetricsTable(self.run_directory, continued=self.requested != "fit")
        own = options.trainer.logger
        loggers = own if isinstance(own, list) else [own] if own not in (None, True, False) else []
        events = TensorBoardLogger(self.run_directory, name="tensorboard", version="", log_graph=False)
        self.checkpoints: Checkpoints = options.checkpoint
        callbacks = [*options.guards, *(options.trainer.callbacks or []), ResumableMetrics(table)]
        saves = self.requested == "fit" and not options["trainer"]["fast_dev_run"]
        if saves:
            callbacks += self.checkpoints.callbacks(self.run_directory)
        trainer = super().instantiate_trainer(
            logger=[table, events, *loggers],
            callbacks=callbacks,
            default_root_dir=str(self.run_directory),
            enable_checkpointing=saves,
            **kwargs,
        )
        if isinstance(trainer.strategy.checkpoint_io, TorchCheckpointIO):
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        return trainer

    def after_instantiate_classes(self) -> None:
        # Lightning converts after it has loaded a checkpoint, which would round a float64 one to float32.
        self.model = self.trainer.precision_plugin.convert_module(self.model)

    def before_fit(self) -> None:
        if self.resumed is not None and self._given_checkpoint() is None:
            self._set_checkpoint(latest_checkpoint(self.run_directory))
        self._check_given_checkpoint()

    def after_fit(self) -> None:
        self._say_where()
        if self.config.fit.test_after_fit:
            saved = Path(str(self.trainer.log_dir), "checkpoints")
            metrics = self._tested(saved / f"{self.checkpoints.tested}.ckpt")
            if self.checkpoints.also_test_best and self.checkpoints.tested == "last":
                best = self._tested(saved / "best.ckpt")
                metrics |= {f"best_epoch/{name}": value for name, value in best.items()}
            self._write_test_metrics(metrics)

    def _say_where(self) -> None:
        directory = self.trainer.log_dir  # broadcast: every process asks
        if directory is not None:
            rank_zero_info(f"Run directory: {directory}")

    def _tested(self, checkpoint: Path | None) -> dict[str, float]:
        path = None if checkpoint is None or self.trainer.fast_dev_run else str(checkpoint)  # type: ignore[attr-defined]
        results = self.trainer.test(self.model, self.datamodule, ckpt_path=path, weights_only=True)
        return {name: value for result in results for name, value in result.items()}

    def _write_test_metrics(self, metrics: dict[str, float]) -> None:
        directory = self.trainer.log_dir
        if self.trainer.is_global_zero and directory is not None:
            write_test_metrics(Path(directory), metrics)

    def before_test(self) -> None:
        self._choose_checkpoint()

    before_validate = before_predict = before_test

    def test(self, **kwargs: Any) -> None:
        results = self.trainer.test(**kwargs)
        self._write_test_metrics({name: value for result in results for name, value in result.items()})
        self._say_where()

    def after_predict(self) -> None:
        self._say_where()

    def _choose_checkpoint(self) -> None:
        """Of a run that is given by its directory, the checkpoint its configuration says."""
        if self.resumed is not None and self._given_checkpoint() is None:
            self._set_checkpoint(self.run_directory / "checkpoints" / f"{self.checkpoints.tested}.ckpt")
        self._check_given_checkpoint()

    def _given_checkpoint(self) -> str | None:
        return self.config[self.requested].ckpt_path

    def _set_checkpoint(self, path: Path) -> None:
        self.config[self.requested].ckpt_path = str(path)
        self.config_init[self.requested].ckpt_path = str(path)

    def _check_given_checkpoint(self) -> None:
        path = self._given_checkpoint()
        if path is not None:
            check_checkpoint(Path(path), self.model)


class ParsedOnly(CommandLine):
    """The command line up to the point where it has parsed: its `parser` reads and builds many configurations."""

    def before_instantiate_classes(self) -> None: ...
    def instantiate_classes(self) -> None: ...
    def after_instantiate_classes(self) -> None: ...
    def _run_subcommand(self, subcommand: str) -> None: ...


def _value_of(args: list[str], flag: str) -> str | None:
    for position, arg in enumerate(args):
        if arg.startswith(flag + "="):
            return arg.split("=", 1)[1]
        if arg == flag:
            if position + 1 == len(args):
                raise ValueError(f"{flag} needs a run directory")
            return args[position + 1]
    return None


def readable(error: BaseException) -> str:
    """What a parser's error says, without the types that it tried on the way.

    jsonargparse reports every alternative of a union; what a user needs is the innermost reason, the key, and what is
    allowed.
    """
    text = str(error)
    key = re.search(r'Parser key "([^"]+)"', text)
    ignored = re.compile(r"Does not validate against any|Subtypes:|Errors:|<class 'NoneType'>|Given value|Parser key")
    reasons: list[str] = []
    for line in text.splitlines():
        reason = line.strip().lstrip("- ")
        if (
            reason
            and not ignored.match(reason)
            and "Expected a <class 'NoneType'>" not in reason
            and reason not in reasons
        ):
            reasons.append(reason)
    given = re.findall(r"Given value: (?!NestedArg|Namespace)(.+)", text)
    message = "; ".join(reasons).replace(":;", ":") or " ".join(text.split())
    if given and "Expected" in message:
        message += f", got {given[-1].strip()}"
    message = re.sub(r"<class '([\w.]+)'>", r"\1", message)
    message += _accepted(message)
    return f"{key[1]}: {message}" if key and key[1] not in message else message


def _accepted(message: str) -> str:
    """The arguments of the class whose argument was refused, the likeliest first."""
    found = re.search(r"class_path '([\w.]+)'.*Option '(\w+)' is not accepted", message)
    if not found:
        return ""
    module, _, name = found[1].rpartition(".")
    names = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    close = difflib.get_close_matches(found[2], names, 1)
    return (f"; did you mean {close[0]}?" if close else "") + f" It accepts {', '.join(names)}"


def run(args: list[str]) -> int:
    """Runs one subcommand. What is the user's to mend is said in one sentence; the traceback is kept beside the
    results.

    Args:
        args: the subcommand and its arguments.

    Returns:
        The exit status: 0; 1 after an error and 2 after a wrong argument; 143 if SIGTERM ended the run, so that
        whoever started it does not take it for complete.
    """
    line: CommandLine | None = None
    try:
        line = CommandLine.__new__(CommandLine)
        line.__init__(args)  # type: ignore[misc]
    except ArgumentError as error:
        print(f"error: {readable(error)}", file=sys.stderr)
        return 2
    except SIGTERMException:
        print("error: the run was ended by SIGTERM; --resume <run directory> continues it", file=sys.stderr)
        return 128 + signal.SIGTERM
    except (ValueError, TypeError, OSError, ImportError) as error:
        message = readable(error)
        place = getattr(line, "run_directory", None)
        if place is not None and place.is_dir():
            kept = place / "traceback.txt"
            with contextlib.suppress(OSError):  # the disk may be what is full
                kept.write_text(traceback.format_exc())
                message += f" (traceback: {kept})"
        elif os.environ.get("NOISEWORKS_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return 1
    finally:
        # Left to the interpreter's end, the process group's threads can outlive what they need and abort the process.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0
