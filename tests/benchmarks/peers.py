"""The libraries that rows are compared with, none of which the project needs: `pip install 'noiseworks[bench]'`."""

import importlib
import importlib.metadata
from typing import Any

import pytest


def peer(module: str, package: str) -> tuple[Any, str]:
    """Import what a row is compared with and give it with its name and version; the row is skipped without it."""
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{package} is not there ({error}): pip install 'noiseworks[bench]'")
    return found, f"{package} {importlib.metadata.version(package)}"
