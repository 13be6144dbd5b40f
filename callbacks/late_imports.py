"""Lazy imports of callbacks, which spare subcommands in the same folders from importing Lightning."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_late(folder: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a folder's `__init__`, which imports the folder's classes lazily.

    Args:
        folder: `__name__` of its `__init__.py`.
        modules: module of the folder that defines each class, by class name.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {folder!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{folder}.{modules[name]}"), name)

    return get
