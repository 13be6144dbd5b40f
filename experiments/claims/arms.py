"""Arms: configurations with overrides, which claims, figures and `compare` run without a file for each variant.

In YAML, an arm is the name of a configuration, or a mapping:

    {config: demo.yaml, model.rule: lightning_modules.optimization.monna.Krum}

Keys are dotted names as on the command line, and values are YAML. In a text, an arm is a configuration that is followed
by arguments: `configs/monna/demo.yaml --model.rule lightning_modules.optimization.monna.Krum`.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config_files import flatten_settings, locate_config, parse_yaml, plain, settings_of, text_of, with_base

COMMANDS = ("fit", "test")
LAYER = ("config", "c")
KEY = re.compile(r"\w+(\.\w+)*\+?")
LONGEST = 80


@dataclass(frozen=True)
class Arm:
    """A configuration with overrides.

    Args:
        config: path of the configuration.
        overrides: command-line arguments after the configuration.
        name: name that replaces the names of the overridden keys in directories and tables.
        command: `fit` to train and test, or `test` to test without training.
    """

    config: Path
    overrides: tuple[str, ...] = ()
    name: str = ""
    command: str = "fit"

    def __str__(self) -> str:
        return shlex.join([str(self.config), *self.overrides])

    @property
    def arguments(self) -> list[str]:
        """Arguments of `fit` or `test`."""
        return ["--config", str(self.config), *self.overrides]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the configuration, its base and the overrides, by dotted names."""
        found = settings_of(locate_config(self.config))
        for flag, value in flags(self.overrides):
            if flag in LAYER:
                for text in layers_of(("--config", value))[value].values():
                    content = parse_yaml(text, Path(value))
                    found |= flatten_settings(content) if isinstance(content, dict) else {}
            else:
                found |= flatten_settings({flag: parse_yaml(value, self.config)})
        found.pop("base", None)
        return found

    @property
    def directory(self) -> str:
        """Name of the configuration with the name of the overrides."""
        return ",".join(filter(None, (self.config.stem, self.tail)))

    @property
    def tail(self) -> str:
        """Name of the overrides: the short names of the keys with their values, or the given name."""
        if self.name:
            return in_a_file_name(self.name)
        given = [(plain(key).removesuffix(".class_path"), shorten_class(value)) for key, value in flags(self.overrides)]
        short = short_names([key for key, _ in given])
        return ",".join(f"{short[key]}={in_a_file_name(value)}" for key, value in given)[:LONGEST]


def arm(text: str) -> Arm:
    """Parse a path, or a configuration that is followed by arguments."""
    config, *overrides = [text] if os.path.exists(text) else shlex.split(text) or [text]
    return Arm(Path(config), tuple(overrides))


def stated_arm(value: object, folder: Path, where: str) -> Arm:
    """Read an arm from a YAML file.

    Args:
        value: name of a configuration, or mapping with `config` and overrides.
        folder: folder to which the name is relative.
        where: place of the arm in error messages.
    """
    content = {"config": value} if isinstance(value, str) else value
    if not isinstance(content, Mapping) or not isinstance(content.get("config"), str) or not content["config"].strip():
        raise ValueError(f"{where} must be a configuration or a mapping {{config: FILE, key: value}}, got {value!r}")
    config = Path(os.path.normpath(folder / content["config"]))
    if not config.is_file():
        raise FileNotFoundError(f"{where} names {config}, which does not exist")
    name, command = content.get("name", ""), content.get("command", "fit")
    if not isinstance(name, str):
        raise ValueError(f"{where}: name must be a text, got {name!r}")
    if command not in COMMANDS:
        raise ValueError(f"{where}: command must be one of {', '.join(COMMANDS)}, got {command!r}")
    overrides: list[str] = []
    for key, each in content.items():
        if key not in ("config", "name", "command"):
            if not isinstance(key, str) or not KEY.fullmatch(key):
                raise ValueError(f"{where}: {key} is not a dotted key such as model.optimizer.lr")
            overrides += [f"--{key}", each if isinstance(each, str) else json.dumps(each)]
    return Arm(config, tuple(overrides), name, command)


def flags(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of options (without dashes) and their values."""
    following = iter(overrides)
    for override in following:
        flag, equals, value = override.partition("=")
        if flag.startswith("--") or flag == "-c":
            yield flag.lstrip("-"), value if equals else next(following, "")


def layers_of(overrides: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read the configurations that `--config` or `-c` specify; each is a file with its base, or inline YAML.

    Returns:
        For each value of the option, the texts of the files by path. A base comes before the file that refers to it.
    """
    found: dict[str, dict[str, str]] = {}
    for flag, value in flags(overrides):
        if flag in LAYER:
            path = locate_config(Path(value))
            found[value] = (
                {str(file): text_of(file) for file in with_base(path)} if os.path.isfile(path) else {str(path): value}
            )
    return found


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shorten each dotted key to the smallest number of last parts that keeps all keys distinct."""
    parts_of = {key: plain(key).split(".") for key in keys}
    names = {}
    for key, parts in parts_of.items():
        others = [other for other in parts_of.values() if other != parts]
        depth = next(d for d in range(1, len(parts) + 1) if all(o[-d:] != parts[-d:] for o in others))
        names[key] = ".".join(parts[-depth:])
    return names


def in_a_file_name(value: str) -> str:
    """Replace characters that a file name should not contain, and keep the first 60 characters."""
    return re.sub(r"[^\w.+-]+", "_", value)[:60]


def shorten_class(value: str) -> str:
    """Shorten a class path to the name of the class, and a class with arguments to its name."""
    content = parse_yaml(value, Path("override"))
    named = content.get("class_path", value) if isinstance(content, dict) else value
    return str(named).rpartition(".")[2] if re.fullmatch(r"[a-z]\w*(\.\w+)+", str(named)) else str(named)
