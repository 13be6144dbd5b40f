import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import commands

Config = Callable[..., Path]
"""The fixture `config`."""
Journal = Callable[..., list[list[str]]]
"""The fixture `journal`."""
Rejected = Callable[[str, list[str], str], None]
"""The fixture `rejected`."""


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def _pictures_are_small(small_pictures: None) -> None:
    """Draw small figures, because no test here inspects them."""


@pytest.fixture
def fit() -> list[str]:
    """Return the command that replaces `python train.py`."""
    return [sys.executable, str(Path(__file__).with_name("stand_in_fit.py"))]


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes `configs/<folder>/<name>.yaml` for the stand-in `fit` command."""

    def write(name: str, max_epochs: int = 3, folder: str = "method", **model: object) -> Path:
        path = tmp_path / "configs" / folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"model": model, "trainer": {"max_epochs": max_epochs}}))
        return path

    return write


@pytest.fixture
def journal(tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Return a function that reads the events (config, seed, event, detail) of runs of a folder's configurations."""

    def read(folder: str = "method") -> list[list[str]]:
        path = tmp_path / "configs" / folder / "journal.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.fixture
def rejected(
    fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, list[str], str], None]:
    """Return a function that checks that a command fails with one sentence that contains a text, and runs nothing."""

    def check(command: str, arguments: list[str], said: str) -> None:
        assert commands.run(command, arguments, fit) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert said in error
        assert not journal()
        assert not (tmp_path / "out").exists()

    return check
