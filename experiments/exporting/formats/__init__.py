"""The formats of `export`, one per file in this folder. The name of the file is the name of the format.

A format has
    a docstring, whose first line is shown by `export --help`
    write(folder, export), which writes the files of the format and returns the example code for the README; it may add
        keys to `export.config`; or, for files of adapters alone, write_adapters(folder, module)
    PROGRAM, the name of its program, if it has one, into which resizing and cropping can be built
    NEEDS, if it needs packages of the extra of its name
"""

import pkgutil
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def names() -> list[str]:
    """List the names of the formats, without importing them."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def load_format(name: str) -> Any:
    """Import a format, if the packages that it needs are installed."""
    chosen = import_module(f"{__name__}.{name}")
    if missing := [each for each in getattr(chosen, "NEEDS", ()) if find_spec(each) is None]:
        raise ValueError(f"--format {name} needs {' and '.join(missing)}: pip install 'noiseworks[{name}]'")
    return chosen
