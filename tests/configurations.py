"""Configuration files for tests, merged with their base files."""

import inspect
import pkgutil
from pathlib import Path
from typing import Any

from experiments.config_files import mapping_of, with_base


def whole(path: Path) -> dict[str, Any]:
    """Read a configuration, merged with its base, as nested dictionaries."""
    settings: dict[str, Any] = {}
    for file in with_base(path):
        merge(settings, mapping_of(file))
    settings.pop("base", None)
    return settings


def merge(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change settings like the command line: a class that replaces another inherits those arguments that it has."""
    for key, value in nested(changes).items():
        old = settings.get(key)
        if isinstance(old, str) and isinstance(value, dict):
            old = settings[key] = {"class_path": old}  # given as a class path only
        if not isinstance(old, dict) or not isinstance(value, dict):
            settings[key] = value
            continue
        if value.get("class_path", old.get("class_path")) != old.get("class_path"):
            known = inspect.signature(pkgutil.resolve_name(value["class_path"])).parameters
            old["init_args"] = {name: kept for name, kept in old.get("init_args", {}).items() if name in known}
        merge(old, value)


def nested(changes: dict[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested dictionaries."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        first, _, rest = key.partition(".")
        if rest:
            merge(found.setdefault(first, {}), {rest: value})
        else:
            found[first] = value
    return found
