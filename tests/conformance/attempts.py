"""Runs of `train.py` in this process that may fail, and their error messages."""

import contextlib
import io
import traceback
from pathlib import Path

import train

FAULT = 3
"""Status of a run that ended with an unexpected error."""


def attempt(*arguments: str | Path) -> tuple[int, str]:
    """Run `train.py`; return 0, or the exit status and the error message, or `FAULT` and the traceback."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            status = train.main([str(argument) for argument in arguments])
    except BaseException:
        return FAULT, traceback.format_exc()
    errors = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
    return status, "" if status == 0 else errors[-1].removeprefix("error: ") if errors else said.getvalue()


def sentence(text: str) -> str:
    """Return the last line of an error, without the location in its traceback."""
    lines = text.strip().splitlines()
    return " ".join(lines[-1].split(" (traceback:")[0].split()) if lines else "it failed without a word"
