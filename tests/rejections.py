"""Parametrisation for tables of rejected inputs: one row per rejection, one table per folder (`test_rejections.py`)."""

from collections.abc import Callable
from pathlib import Path

import pytest

Row = tuple[str, Callable[[Path], object], type[Exception], str]
"""A case: its name; the function, which is called with an empty folder; the exception; a pattern of its message."""


def rejections(*rows: Row) -> pytest.MarkDecorator:
    """Parametrise a test with the rows of a table."""
    return pytest.mark.parametrize(
        ("called", "error", "message"), [pytest.param(*row[1:], id=row[0].replace(" ", "-")) for row in rows]
    )


def rejection_test(*rows: Row) -> Callable[..., None]:
    """Return a test with a case for each row of a table."""

    @rejections(*rows)
    def test_what_is_rejected_is_named(
        called: Callable[[Path], object], error: type[Exception], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(error, match=message):
            called(tmp_path)

    return test_what_is_rejected_is_named
