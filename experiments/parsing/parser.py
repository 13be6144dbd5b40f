"""Parser of configurations that supports `base`, checks class paths and prints short help texts."""

import json
import os
import re
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, DefaultHelpFormatter, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from experiments.config_files import locate_config, with_base, without_base_line
from experiments.lightning_internals import typed_arguments
from experiments.parsing.class_paths import check_class_paths
from experiments.parsing.data_before_model import with_placeholder


class ConfigFile(ActionConfigFile):
    """Action of `--config FILE`. If the file has a `base`, the base is applied first, like a preceding `--config`."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        path = locate_config(Path(values))
        for file in with_base(path) if os.path.isfile(path) else [values]:
            self.apply_config(parser, cfg, self.dest, str(file))


class ShortHelp(DefaultHelpFormatter):
    """Help formatter that omits lists of known subclasses, which contain hundreds of classes from other packages."""

    def _get_help_string(self, action: Any) -> str:
        return re.sub(r", known subclasses: [^()]*(?=\)$)", "", super()._get_help_string(action))


class Parser(LightningArgumentParser):
    """Parser that checks class paths, and replaces `$FOLDER` in a configuration by the folder of its file.

    It ignores `base: FILE` in a configuration, because `ConfigFile` applies it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=ShortHelp, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = ConfigFile
        return super().add_argument(*args, **kwargs)

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parse arguments. For a nested class, jsonargparse passes `None` instead of null; convert it to null."""
        if kwargs.keys() & {"namespace", "defaults"}:  # in the parser of a nested class, which has one argument
            args = [re.sub("=None$", "=null", each) for each in args]
        return super().parse_args(args, *more, **kwargs)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        own = content.replace("$FOLDER", json.dumps(os.getcwd())[1:-1])  # jsonargparse works in the folder of a file
        return super().parse_string(with_placeholder(without_base_line(own)), *args, **kwargs)

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """Check the values as jsonargparse does, then the class paths in them. Each nested class has its own parser."""
        super().validate(namespace, *args, **kwargs)
        for name, kind in typed_arguments(self):
            check_class_paths(name, kind, namespace.get(name))
