"""Callbacks that their folder imports only where they are asked for, as the folder's subcommands need no Lightning."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_late(folder: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Give a folder's `__getattr__`.

    Args:
        folder: `__name__` of its `__init__.py`.
        modules: by class, the module of the folder that defines it.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {folder!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{folder}.{modules[name]}"), name)

    return get
