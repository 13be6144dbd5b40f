"""The shell's completion of arguments, which needs the package argcomplete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, environment


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("train.py pr", ["predict"]),
        ("train.py compare --me", ["--metrics"]),
        ("python train.py methods --h", ["--help"]),
        pytest.param("train.py fit --checkpoint.tes", ["--checkpoint.tested"], marks=pytest.mark.nightly),
        pytest.param("train.py test --test_after_fit", [""], marks=pytest.mark.nightly),  # which is of fit alone
    ],
)
def test_the_shell_completes_arguments(line: str, completed: list[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    words = line.split()
    shell = {
        "_ARGCOMPLETE": str(words.index("train.py") + 1),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "completed"),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_TYPE": "9",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    arguments = [sys.executable, str(ROOT / "train.py")]
    subprocess.run(arguments, env={**environment(), **shell, "PYTHONPATH": path}, check=True)
    assert (tmp_path / "completed").read_text().split("\n") == completed
