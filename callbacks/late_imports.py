"""Import callbacks lazily, so that subcommands that use other modules of the same folders do not import Lightning."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_late(folder: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a function `__getattr__` for the `__init__.py` of a package; it imports the package's classes lazily.

    Args:
        folder: `__name__` of the package.
        modules: dict that maps the name of each class to the name of the module that defines it.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {folder!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{folder}.{modules[name]}"), name)

    return get
