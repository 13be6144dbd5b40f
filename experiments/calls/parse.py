"""Parse the arguments of a subcommand, without building anything: the first of the three calls."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_dumper
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from experiments.arguments import PROGRAM
from experiments.config_files import (
    PROJECT,
    dump_yaml,
    locate_config,
    mapping_of,
    similar_file,
    text_of,
    with_base,
)
from experiments.parsing.call_arguments import (
    config_files,
    value_of,
    with_folder_of_logger,
    with_latest,
    with_restart,
)
from experiments.parsing.class_names import with_full_names
from experiments.parsing.parser import Parser
from experiments.run_directory import new_run_directory
from experiments.saving.checkpoints import Checkpoints
from experiments.strangers import known_imports, settings_of_run

set_dumper("yaml", dump_yaml)
DEFAULTS = PROJECT / "configs" / "defaults.yaml"
CALL_ONLY = {  # arguments that apply to a single call and are not saved in config.yaml
    *("config", "resume", "run_directory", "test_after_fit"),
    *("ckpt_path", "weights_only", "verbose", "return_predictions"),
}
UNHELPFUL = (  # warnings of every run, about which the user cannot do anything
    r".*treespec, LeafSpec.*",
    "Be aware that when using `ckpt_path`.*",
    "Total length of `list` across ranks is zero.*",  # if there is no validation set
)


@dataclass
class Guards:
    """Callbacks that every run has. They are called before those in `trainer.callbacks`. null disables a callback.

    Args:
        seed_every_batch: seeds all random number generators before each batch. The seed depends on the run and on the
            batch.
        sanity_checks: checks before training starts that model, data and trainer are compatible.
        finite_loss: stops a run whose training loss is NaN or infinite.
        write_predictions: writes the class probabilities of `predict` to disk.
        figures_to_loggers: logs the run's figures to its loggers.
    """

    seed_every_batch: Callback | None = None
    sanity_checks: Callback | None = None
    finite_loss: Callback | None = None
    write_predictions: Callback | None = None
    figures_to_loggers: Callback | None = None

    @property
    def callbacks(self) -> list[Callback]:
        """The enabled callbacks, in the order in which they are called."""
        given = [getattr(self, field.name) for field in fields(self)]
        return [each for each in given if each is not None]


SECTIONS: dict[str, type] = {"guards": Guards, "checkpoint": Checkpoints, "trainer": Trainer}
"""Sections of a configuration that are mappings without a `class_path`, and the classes of their arguments."""


class Grammar(LightningCLI):
    """The arguments of one subcommand, as `LightningCLI` defines them. The constructor only builds the parser."""

    def __init__(self, subcommand: str) -> None:
        if not DEFAULTS.is_file():
            raise FileNotFoundError(f"{DEFAULTS} does not exist: install noiseworks again, with its configurations")
        self.requested = subcommand
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={
                "prog": PROGRAM,
                "exit_on_error": False,
                "allow_abbrev": False,
                subcommand: {"default_config_files": [str(DEFAULTS)], "exit_on_error": False},
            },
            args=[],
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return only the requested subcommand, because building the parsers of all four subcommands takes seconds."""
        return {self.requested: LightningCLI.subcommands()[self.requested]}

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

    def resolve(self, args: list[str]) -> Namespace:
        """Parse a subcommand and its arguments, and return the settings below the key of the subcommand."""
        return self.parser.parse_args(args)

    # What LightningCLI's constructor would do after building the parser is done by `parse`, `build` and `execute`.

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = Namespace(subcommand=self.requested)

    def _parse_ckpt_path(self) -> None: ...
    def _set_seed(self) -> None: ...
    def instantiate_classes(self) -> None: ...
    def _run_subcommand(self, subcommand: str) -> None: ...

    def __deepcopy__(self, memo: dict[int, Any]) -> "Grammar":
        """Return self: optimizer factories refer to this object, and a copied module does not need another parser."""
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "a model built from a configuration refers to its parser and cannot be pickled: save its state_dict(), "
            "and rebuild it with load_run(RUN_DIRECTORY)"
        )


class RunFolder:
    """A run directory that is not created yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun = False
        """Whether this call created the run directory."""
        self.held = ExitStack()
        """Lock of the directory, for as long as the run writes to it."""


@dataclass
class Parsed:
    """The settings of a subcommand. Nothing is built, and nothing is written."""

    subcommand: str
    arguments: list[str]
    """Arguments as the user gave them, without the subcommand."""
    grammar: Grammar
    config: Namespace
    """Settings below the key of the subcommand."""
    folder: RunFolder
    resumed: str | None = None
    """The directory of the run that is resumed or evaluated."""
    began_from: str | None = None
    """Checkpoint of another run from which the resumed run began."""
    trusted: tuple[Any, list[str]] | None = None
    """Settings of the resumed run, and texts of the user; they limit what may be imported. None means no limit."""

    @property
    def settings(self) -> Namespace:
        return self.config[self.subcommand]

    @contextmanager
    def imports(self) -> Iterator[None]:
        """Context manager in which the `config.yaml` of a run can name only what is known or named by the user.

        The limit holds for the whole process. Each of the three calls therefore sets it and removes it again: between
        the calls, a Python program does its own work.
        """
        with ExitStack() as stack:
            if self.resumed is not None and self.trusted is not None:
                stack.enter_context(known_imports(*self.trusted, Path(self.resumed)))
            yield


def parse(args: list[str]) -> Parsed:
    """Parse a subcommand and its arguments. This is the first of three calls: `execute(build(parse(args)))`.

    Args:
        args: subcommand and its arguments, such as `["fit", "--config", "configs/elr/demo.yaml"]`.

    Raises:
        ArgumentError: if an argument or a setting is invalid.
        ValueError: if a file or an option is rejected before it is parsed.
        FileNotFoundError: if a file does not exist.
    """
    subcommand, *arguments = args
    quiet_warnings()
    args = with_folder_of_logger(with_restart(with_latest(with_full_names(args))))
    resumed, began_from, trusted = value_of(args, "--resume"), None, None
    if resumed is not None:
        config = Path(resumed, "config.yaml")
        if not os.path.isfile(config):
            raise FileNotFoundError(f"{resumed} cannot be resumed: {config} does not exist")
        began_from = mapping_of(config).get("ckpt_path")
        settings = settings_of_run(Path(resumed), CALL_ONLY, args[1:])
        check_sections(settings, config)
    files = config_files(args)
    for file in files:
        check_file(file)
    if resumed is not None:
        paths = [path for file in files if os.path.isfile(path := locate_config(Path(file)))]
        trusted = settings, [*args, *(text_of(each) for path in paths for each in with_base(path))]
        args = [subcommand, "--config", dump_yaml(settings), "--ckpt_path=null", *args[1:]]
    grammar = Grammar(subcommand)
    parsed = Parsed(subcommand, arguments, grammar, Namespace(), RunFolder(Path()), resumed, began_from, trusted)
    with parsed.imports():
        parsed.config = grammar.config = grammar.resolve(args)
    parsed.folder.path = Path(parsed.settings.run_directory or resumed or new_run_directory(files))
    return parsed


def check_file(file: str) -> None:
    """Reject a value of `--config` that is not a configuration, before anything is loaded."""
    path = locate_config(Path(file))
    if os.path.isfile(path):
        for each in with_base(path):  # rejects other YAML files
            check_sections(mapping_of(each), each)
    elif re.match(r"\w+:(//|:)", file):
        raise ValueError(f"--config {file} is a URL: download the file and give its path")
    elif ":" not in file and not os.path.exists(path):  # not inline YAML
        raise FileNotFoundError(f"--config {file} does not exist (working directory: {Path.cwd()}){similar_file(path)}")


def check_sections(settings: dict[str, Any], path: object) -> None:
    """Reject a section that is not a mapping, which jsonargparse accepts."""
    for key in SECTIONS.keys() & settings.keys():
        if not isinstance(settings[key], dict):
            raise ValueError(f"{path}: {key} is {settings[key]!r}, but must be a mapping of its arguments")


def quiet_warnings() -> None:
    """Hide messages that every run would show, and about which the user cannot do anything."""
    for message in UNHELPFUL:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda r: "litlogger" not in r.getMessage())
