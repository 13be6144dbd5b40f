"""Rows of a parametrised test that run only nightly."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def nightly_beyond(default: Collection[Any], rows: Iterable[Any]) -> list[Any]:
    """Mark all rows that are not in `default`; a row of several arguments is a tuple."""
    every = [*rows]
    assert all(row in every for row in default), f"no such row: {[row for row in default if row not in every]}"
    return [
        row if row in default else pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=pytest.mark.nightly)
        for row in every
    ]
