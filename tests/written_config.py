"""Read the settings that a configuration and its base state."""

from functools import reduce
from pathlib import Path
from typing import Any

from experiments.config_files import mapping_of, with_base


def written(path: Path) -> dict[str, Any]:
    """Read a YAML file as nested settings, merged into those of its base; a list replaces a list."""
    config: dict[str, Any] = {}
    for file in with_base(path):
        for name, value in mapping_of(file).items():
            *above, last = name.split(".")
            merge(reduce(lambda inner, key: inner.setdefault(key, {}), above, config), {last: value})
    config.pop("base", None)
    return config


def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Put new settings into old ones. Another class starts without arguments that the file does not repeat."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            merge(old[key], value)
        else:
            old[key] = value
