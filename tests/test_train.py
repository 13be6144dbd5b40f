"""`train.py` finds the packages of its own project, and exits with the status that docs/runs.md states."""

import os
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
    assert train.find_shadowing_package() is None
    monkeypatch.setattr(train, "PACKAGES", ("callbacks_of_nobody",))
    assert "but Python does not find it" in str(train.find_shadowing_package())


EVIL = ("json", "random", "pickle", "signal", "timeit", "mine")
CHILD = """
import subprocess, sys, train
train.protect_child_processes()
train.protect_child_processes()
for command in (["-c", "import sys, json, random"], ["-m", "timeit", "-n1", "-r1", "pass"], ["-c", "import train"]):
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
import multiprocessing
import multiprocessing.resource_tracker
multiprocessing.resource_tracker.ensure_running()
process = multiprocessing.get_context("spawn").Process(target=int)
process.start()
process.join()
print(process.exitcode, subprocess.run([sys.executable, "-c", "import mine"], stderr=subprocess.DEVNULL).returncode)
"""


@pytest.mark.parametrize("own", [False, True])
def test_child_processes_import_from_the_working_directory_only_if_pythonpath_names_it(
    own: bool, tmp_path: Path
) -> None:
    """A run directory of a stranger may have a `json.py`; your own package is found if PYTHONPATH has its folder."""
    run, package = tmp_path / "run", tmp_path / "own"
    for folder in (run, package):
        folder.mkdir()
    for name in EVIL:
        (run / f"{name}.py").write_text(f"import os; os.mkdir({str(tmp_path / name)!r})")
    (package / "mine.py").touch()
    paths = [str(ROOT), str(package) if own else ""]
    settings = {**environment(), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([sys.executable, "-P", "-c", CHILD], cwd=run, env=settings, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "0" if own else "1"], done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"run", "own"}


def test_a_package_beside_the_working_files_is_the_users_own(tmp_path: Path) -> None:
    """With the relative entry `.`, PYTHONPATH names the working directory itself."""
    (tmp_path / "mine.py").touch()
    settings = {**environment(), "PYTHONPATH": f"{ROOT}:."}
    done = subprocess.run([sys.executable, "-P", "-c", CHILD], cwd=tmp_path, env=settings, capture_output=True)
    assert done.stdout.split() == [b"0", b"0"], done.stderr


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
