"""The documented instructions work unchanged: the README's Python example and CONTRIBUTING's recipe for a method."""

import re
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import train
from experiments.commands import methods
from lightning_modules import noisy_labels
from tests.command import ROOT, environment

README = (ROOT / "README.md").read_text()


def recipe() -> dict[str, str]:
    """Return the path and content of each file in CONTRIBUTING's section `Add a method`."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Add a method")[1].split("\n## ")[0]
    assert "Run `python train.py pages` to add the method to the documentation" in section
    return dict(re.findall(r"^`([\w/]+\.\w+)`:.*?\n\n```\w+\n(.*?)```", section, flags=re.DOTALL | re.MULTILINE))


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_the_example_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(
        r"^```python\n(from lightning\.pytorch import Trainer\n.*?)```", README, re.DOTALL | re.MULTILINE
    )
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["trainer"].callback_metrics["test/accuracy"] > 0.8


def test_the_example_with_a_loader_of_ones_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/own.md").read_text()
    [example] = re.findall(r"^```python\n(import torch\nfrom lightning.*?)```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(example, names)
    metrics, directory = names["trainer"].callback_metrics, Path(names["trainer"].log_dir)
    assert metrics["test/accuracy"] > 0.8
    [robust] = [value for name, value in metrics.items() if name.startswith("test/robust_accuracy")]
    assert 0 < robust <= metrics["test/accuracy"]
    for name in ("label_report", "certification", "robust_accuracy"):
        assert len(pd.read_csv(directory / f"{name}.csv")) > 0


def write_recipe(directory: Path) -> list[str]:
    """Write the files of the recipe, and return the paths of the module, configuration and test."""
    files = recipe()
    assert [Path(name).suffix for name in files] == [".py", ".yaml", ".py"]
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    return [*files]


def assert_trained(run: Path) -> None:
    metrics = dict(line.split(",") for line in (run / "test_metrics.csv").read_text().split()[1:])
    assert float(metrics["test/accuracy"]) > 0.8
    assert (run / "figures" / "early_learning.png").stat().st_size > 0


def test_a_method_is_one_module_one_yaml_and_one_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files are in a separate folder, which is added to the search path of the package `noisy_labels`."""
    module, config, test = write_recipe(tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    rules = ("--config", f"src = ['{ROOT}', '.']")  # the first-party packages, for the import order
    subprocess.run([sys.executable, "-m", "ruff", "check", "-q", *rules, module, test], cwd=tmp_path, check=True)
    monkeypatch.setattr(noisy_labels, "__path__", [*noisy_labels.__path__, str((tmp_path / module).parent)])
    name = ".".join(Path(module).with_suffix("").parts)
    try:
        defined: dict[str, Any] = {}
        exec((tmp_path / test).read_text(), defined)
        tests = [function for each, function in defined.items() if each.startswith("test_")]
        assert tests
        for each in tests:
            each()
        run = tmp_path / "run"
        fit = ["fit", "--config", str(tmp_path / config), "--run_directory", str(run), "--test_after_fit", "true"]
        assert train.main(fit) == 0
        assert_trained(run)
        assert train.main(["predict", "--resume", str(run)]) == 0
        assert (run / "predictions.parquet").stat().st_size > 0
    finally:
        sys.modules.pop(name, None)
        vars(noisy_labels).pop(Path(module).stem, None)
    capsys.readouterr()
    assert methods.run(Namespace(names=[], field=None), tmp_path) == 0
    listed = capsys.readouterr().out
    assert "GeneralizedCrossEntropy" in listed
    assert "1805.07836" in listed


@pytest.mark.nightly
def test_a_new_method_keeps_the_rules_and_has_all_that_every_method_has(tmp_path: Path) -> None:
    """Write the new method into a copy of this project, and run the project's tests on this method."""
    for name in ("lightning_modules", "datamodules", "callbacks", "experiments", "configs", "tests", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)  # includes compiled files, because compiling takes seconds
    for name in ("train.py", "pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    module, config, test = write_recipe(tmp_path)

    def python(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**environment(), "PYTHONPATH": str(tmp_path), "COLUMNS": "300"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    python("-m", "ruff", "check", module, test)
    rules = ("tests/test_imports.py", "tests/test_sizes.py")
    stem = Path(module).stem
    python("-m", "pytest", "-q", test, *rules, "tests/conformance", "-k", f"{stem} or test_imports or test_sizes")
    both = "import train; assert train.main(['methods']) == 0; assert train.main(['fit', *{!r}]) == 0"
    listed = python("-c", both.format(["--config", config, "--run_directory", "run", "--test_after_fit", "true"]))
    assert "GeneralizedCrossEntropy" in listed
    assert "1805.07836" in listed
    assert_trained(tmp_path / "run")
