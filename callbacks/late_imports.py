"""Lazy imports of callbacks. Subcommands that use the same folders need not import Lightning."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_late(folder: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for the `__init__` of a folder. It imports the classes of the folder lazily.

    Args:
        folder: `__name__` of its `__init__.py`.
        modules: names of the modules that define the classes, by class name.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {folder!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{folder}.{modules[name]}"), name)

    return get
