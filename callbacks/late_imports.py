"""Lazy imports of callbacks, so that subcommands in the same folders do not import Lightning."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_late(folder: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a folder that imports its classes lazily.

    Args:
        folder: `__name__` of its `__init__.py`.
        modules: the folder's module that defines each class.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {folder!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{folder}.{modules[name]}"), name)

    return get
