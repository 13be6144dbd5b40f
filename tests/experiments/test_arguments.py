"""Arguments of a command: shell completion with argcomplete, and quick help."""

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
        pytest.param("train.py fit --checkpoint.tes", ["--checkpoint.test_checkpoint"], marks=pytest.mark.nightly),
        pytest.param("train.py test --test_after_fit", [""], marks=pytest.mark.nightly),  # an argument of fit only
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


HELP = """
import contextlib, io, sys, train
for command in ("certified_curves", "fid", "generate", "score", "label_report", "noise_library", "compare", "claim"):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        train.main([command, "--help"])
    assert said.getvalue().startswith("usage: "), command
    assert not {"lightning", "torch", "pandas", "torchmetrics"} & {*sys.modules}, command
import callbacks.certification, callbacks.generation, callbacks.labels
for package in (callbacks.certification, callbacks.generation, callbacks.labels):
    assert not hasattr(package, "Nothing")
    assert package.__all__
from callbacks.generation import generated_folder, image_generators, launched
assert launched.fabric_of("cpu", 1).is_global_zero
assert not {"lightning", "torchmetrics", "pandas", "matplotlib"} & {*sys.modules}
"""


def test_help_imports_neither_lightning_nor_torch() -> None:
    """In earlier versions, `--help` took 6 to 7 s, because packages imported their callbacks."""
    subprocess.run([sys.executable, "-c", HELP], check=True, cwd=ROOT, env=environment())


def test_packages_that_import_their_callbacks_late_have_them_all() -> None:
    import callbacks.certification
    import callbacks.generation
    import callbacks.labels

    for package in (callbacks.certification, callbacks.generation, callbacks.labels):
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
