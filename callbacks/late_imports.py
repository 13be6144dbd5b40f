"""Import callbacks lazily, so that subcommands that use other modules of the same folders do not import Lightning."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_late(folder: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package's `__init__.py`; it imports the classes of the package lazily.

    Args:
        folder: `__name__` of the package.
        modules: name of the module that defines each class, by class name.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {folder!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{folder}.{modules[name]}"), name)

    return get
