"""Optional libraries that benchmarks are compared with; install them with `pip install 'noiseworks[bench]'`."""

import importlib
import importlib.metadata
from typing import Any

import pytest


def peer(module: str, package: str) -> tuple[Any, str]:
    """Import a library to compare with; return it with its name and version, or skip the benchmark if it is missing."""
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{package} is not there ({error}): pip install 'noiseworks[bench]'")
    return found, f"{package} {importlib.metadata.version(package)}"
