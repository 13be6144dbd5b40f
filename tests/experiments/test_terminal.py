"""The output of a run depends on its target: progress bars only on a terminal, and no colours with NO_COLOR."""

from pathlib import Path

import pytest
from rich.console import Console

import train
from experiments.calls import build, execute
from experiments.progress_bar import WholeRun

FIT = ("fit", "--config", "configs/elr/demo.yaml", "--trainer.fast_dev_run", "true")


@pytest.mark.parametrize(
    ("terminal", "given", "shown"),
    [(False, [], False), (True, [], True), (False, ["true"], True), (True, ["false"], False)],
)
def test_the_progress_bar_is_for_terminals(
    terminal: bool, given: list[str], shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = []
    monkeypatch.setattr(build, "terminal", lambda: Console(force_terminal=terminal))
    monkeypatch.setattr(execute, "refuse_options", lambda _, trainer: bars.append(trainer.progress_bar_callback))
    said = [f"--trainer.enable_progress_bar={each}" for each in given]
    assert train.main([*FIT, *said, "--run_directory", str(tmp_path / "run")]) == 0
    assert [type(bar) for bar in bars] == [WholeRun if shown else type(None)]
