"""Read configuration files, which may refer to a `base` file.

A file that begins with the line `base: demo.yaml` contains only its differences from `demo.yaml`. The base has the same
effect as a `--config` that precedes the file on the command line.
"""

import difflib
import os
import re
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
MOST_VALUES = 1_000_000
BASE_LINE = re.compile(r"^base:[^\n]*$", re.MULTILINE)
# libyaml is several times as fast as PyYAML's loader and dumper in Python
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Dumper of plain values and enumerations. Default values may be enumerations."""


Dumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))


def load_yaml(text: str) -> Any:
    """Parse a YAML text into plain values. A key that occurs twice in a mapping is an error, as in YAML 1.2."""
    loader = LOADER(text)
    try:
        root = loader.get_single_node()
        _check_keys(root)
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _check_keys(root: yaml.Node | None) -> None:
    """Raise an error if a key occurs twice in a mapping."""
    waiting: list[Any] = [root]
    checked = set()
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in checked:
            continue
        checked.add(id(node))  # an alias is the node that it refers to
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        lines: dict[Any, int] = {}
        for key, value in node.value:
            waiting.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if first := lines.get(key.value):
                raise yaml.YAMLError(f"the key {key.value} occurs twice in one mapping, in lines {first} and {line}")
            lines[key.value] = line


def dump_yaml(values: Any) -> str:
    """Write plain values as a YAML text, with one key per line in the given order."""
    return yaml.dump(values, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def relative(path: Path) -> Path:
    """Return a path relative to the working directory if it is inside this directory, and otherwise the path itself."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def locate_config(path: Path) -> Path:
    """Find a configuration file at its path or, for `configs/...`, among the configurations in the package."""
    ours = PROJECT / path
    # os.path returns False if a string is too long for a path
    return ours if path.parts[:1] == ("configs",) and not os.path.exists(path) and os.path.isfile(ours) else path


def similar_file(path: Path) -> str:
    """Suggest a configuration with a similar name, in the same folder or under `configs/`; empty if there is none."""
    near = [path.parent, PROJECT / path.parent]
    names = {str(path.parent / file.name) for folder in near if folder.is_dir() for file in folder.glob("*.y*ml")}
    names |= {str(file.relative_to(PROJECT)) for file in PROJECT.glob(f"configs/*/{path.stem}.yaml")}
    close = difflib.get_close_matches(str(path), names, 1, 0.75)
    return f"; did you mean {close[0]}?" if close else ""


def text_of(path: Path) -> str:
    """Read a text file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error.reason} at byte {error.start}") from None


def parse_yaml(text: str, path: Path) -> Any:
    """Parse the text of a YAML file whose aliases expand to at most `MOST_VALUES` values."""
    try:
        content = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    waiting, count = [content], 0
    while waiting:  # nested aliases expand exponentially
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        if (count := count + 1) > MOST_VALUES:
            raise ValueError(f"{path} expands to more than {MOST_VALUES} values: write it without aliases")
    return content


def mapping_of(path: Path) -> dict[str, Any]:
    """Read a configuration file."""
    content = parse_yaml(text_of(path), path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is not a configuration: it must be a mapping with keys such as model, data and trainer "
            f"(claim.yaml is for train.py claim)"
        )
    return content


def base_of(path: Path) -> Path | None:
    """Return the path of the base of a configuration, or None if it has no base."""
    content = mapping_of(path)
    if "base" not in content:
        return None
    value, allowed = content["base"], "a file of the same folder (demo.yaml) or of a sibling folder (../elr/demo.yaml)"
    if not isinstance(value, str) or not re.fullmatch(r"(\.\./[\w-]+/)?[\w.-]+\.ya?ml", value):
        raise ValueError(f"{path}: base is {value!r}, but must be {allowed}")
    if next(iter(content)) != "base" or not BASE_LINE.search(text_of(path)):
        raise ValueError(f"{path}: base: {value} must be the first key, on a line of its own")
    base = path.parent / value
    if not base.is_file():
        raise FileNotFoundError(f"{path}: base is {value}, which does not exist; it must be {allowed}")
    if "base" in mapping_of(base):
        raise ValueError(f"{path}: base is {value}, which has a base itself; it must be {allowed} without a base")
    return base


def with_base(path: Path) -> list[Path]:
    """Return the path of the base, if there is one, and the path of the configuration."""
    base = base_of(path)
    return [base, path] if base else [path]


def without_base_line(text: str) -> str:
    """Replace the line `base: ...` with an empty line, so that line numbers in error messages stay correct.

    If the file contains only this line, return an empty mapping.
    """
    own = BASE_LINE.sub("", text, count=1)
    return own if re.search(r"^[^#\s]", own, re.MULTILINE) else "{}\n"


def flatten_settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names without `init_args`, for example `data.label_noise.noise_rate`."""
    if not isinstance(value, dict) or not value:
        return {plain(prefix): value}
    return {
        name: leaf for key, inner in value.items() for name, leaf in flatten_settings(inner, f"{prefix}.{key}").items()
    }


def plain(key: str) -> str:
    """Remove `init_args` from a dotted name."""
    return ".".join(part for part in key.split(".") if part not in ("", "init_args"))


def settings_of(path: Path) -> dict[str, Any]:
    """Read the settings of a configuration and its base into a dict by dotted names."""
    leaves = [leaf for file in with_base(path) for leaf in flatten_settings(mapping_of(file)).items()]
    return {name: value for name, value in leaves if name != "base"}
