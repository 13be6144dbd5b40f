"""The instructions work as they stand: README's example in Python, and CONTRIBUTING's recipe for a new method."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.command import ROOT, environment

README = (ROOT / "README.md").read_text()


def recipe() -> dict[str, str]:
    """The files that the section `Add a method` says to write: path and content."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Add a method")[1].split("\n## ")[0]
    return dict(re.findall(r"^`([\w/]+\.\w+)`:.*?\n\n```\w+\n(.*?)```", section, flags=re.DOTALL | re.MULTILINE))


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
    [example] = re.findall(r"^```python\n(import torch\nfrom lightning.*?)```", README, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(example, names)
    metrics, directory = names["trainer"].callback_metrics, Path(names["trainer"].log_dir)
    assert metrics["test/accuracy"] > 0.8
    [robust] = [value for name, value in metrics.items() if name.startswith("test/robust_accuracy")]
    assert 0 < robust <= metrics["test/accuracy"]
    for name in ("label_report", "certification", "robust_accuracy"):
        assert len(pd.read_csv(directory / f"{name}.csv")) > 0


def test_a_method_is_one_module_one_yaml_and_one_test(tmp_path: Path) -> None:
    for name in ("lightning_modules", "datamodules", "callbacks", "experiments", "configs", "tests", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)  # with what is compiled, which takes seconds
    for name in ("train.py", "pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    files = recipe()
    assert [Path(name).suffix for name in files] == [".py", ".yaml", ".py"]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    module, config, test = files

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
    metrics = dict(line.split(",") for line in (tmp_path / "run" / "test_metrics.csv").read_text().split()[1:])
    assert float(metrics["test/accuracy"]) > 0.8
    assert (tmp_path / "run" / "figures" / "early_learning.png").stat().st_size > 0
