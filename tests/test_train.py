"""`train.py` finds the packages of its own project, and exits with the status that docs/runs.md states."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import train
from tests.command import ROOT, environment

CALL = "import sys, train; sys.exit(train.main(['methods', '--help']))"


@pytest.mark.parametrize("name", train.PACKAGES)
def test_a_package_of_another_project_is_reported_in_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    settings = {**environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", CALL], cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(
        f"error: the package {name} of noiseworks is {ROOT / name}, but Python finds .*", done.stderr[:-1]
    )
    assert str(tmp_path / name) in done.stderr
    assert "environment of its own" in done.stderr


def test_a_package_that_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train.shadowed() is None
    monkeypatch.setattr(train, "PACKAGES", ("callbacks_of_nobody",))
    assert "but Python does not find it" in str(train.shadowed())


FIT = ["fit", "--config", "configs/elr/demo.yaml"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["methods", "elr"], 0),
        ([], 0),
        (["train"], 2),
        (["compare", "configs/elr/demo.yaml"], 2),
        ([*FIT, "--model.strenght", "1"], 2),
        ([*FIT, "--config", "configs/elr/missing.yaml"], 1),
        (["test", "--resume", "runs/missing"], 1),
    ],
)
def test_exit_statuses(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments) == status
    assert capsys.readouterr().err.startswith("error: ") == (status > 0)


def test_each_exit_status_is_documented() -> None:
    section = (ROOT / "docs" / "runs.md").read_text().split("## Exit statuses")[1].split("\n## ")[0]
    assert re.findall(r"^\| (\d+) \|", section, re.MULTILINE) == ["0", "1", "2", "130", "143"]
