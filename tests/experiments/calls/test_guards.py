"""The callbacks of every run can each be disabled by name."""

from pathlib import Path

import pytest

import train
from experiments.calls.build import build
from experiments.calls.parse import parse
from tests.command import ROOT

DEMO = ROOT / "configs/elr/demo.yaml"
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
ALL = ["SeedEveryBatch", "SanityChecks", "FiniteLoss", "WritePredictions", "FiguresToLoggers"]


def callbacks(*arguments: str) -> list[str]:
    """Return the names of a run's callbacks in calling order."""
    line = build(parse([*arguments, *QUIET]), runs=False)
    return [type(each).__name__ for each in line.trainer.callbacks]


def test_guards_come_first_and_one_is_switched_off_by_its_name(tmp_path: Path) -> None:
    fit = ("fit", "--config", str(DEMO), "--run_directory", str(tmp_path / "run"))
    found = callbacks(*fit)
    assert found[:5] == ALL
    assert "EarlyLearning" in found[5:]  # a callback of the demo's trainer.callbacks
    layer = tmp_path / "layer.yaml"
    layer.write_text("guards: {finite_loss: null}\n")
    without = [each for each in found if each != "FiniteLoss"]
    assert callbacks(*fit, "--config", str(layer)) == without
    assert callbacks(*fit, "--guards.finite_loss", "null") == without
    layer.write_text("trainer: {callbacks: [{class_path: callbacks.guards.Divergence}]}\nguards.sanity_checks: null\n")
    assert callbacks(*fit, "--config", str(layer))[:5] == [
        *(each for each in ALL if each != "SanityChecks"),
        "Divergence",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trainer: null", "trainer is None, but must be a mapping of its arguments"),
        ("guards: {finite_los: null}", "option 'guards.finite_los'; did you mean guards.finite_loss?"),
        ("guards: {sanity_checks: false}", "guards.sanity_checks: Expected one of lightning.pytorch.callbacks"),
    ],
)
def test_a_wrong_guard_is_one_sentence(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "layer.yaml").write_text(text + "\n")
    assert train.main(["fit", "--config", str(DEMO), "--config", str(tmp_path / "layer.yaml")]) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
