"""The callbacks of every run can each be disabled by name; a run of version 0.1, which lists them, can be resumed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from experiments.calls.build import build
from experiments.calls.parse import parse
from experiments.parsing.guards import CLASSES, check_guards, from_list
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


def test_monna_compares_with_what_diverges() -> None:
    """Plain averaging, the baseline of MoNNA, diverges under attack; its runs must continue nevertheless."""
    settings = yaml.safe_load((ROOT / "configs/monna/demo.yaml").read_text())
    assert settings["guards"] == {"finite_loss": None}


def test_a_run_of_version_0_1_resumes_with_its_guards_and_its_test_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")
    assert train.main(["fit", "--config", str(DEMO), "--run_directory", str(run), *short, *QUIET]) == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert list(config["guards"]) == list(CLASSES.values())
    listed = [{"class_path": kind} for kind, name in CLASSES.items() if name != "finite_loss"]
    checkpoint = {"tested" if key == "test_checkpoint" else key: each for key, each in config["checkpoint"].items()}
    of_0_1 = {**config, "guards": listed, "checkpoint": {**checkpoint, "tested": "best"}}
    (run / "config.yaml").write_text(yaml.safe_dump(of_0_1))
    assert callbacks("test", "--resume", str(run))[:4] == [each for each in ALL if each != "FiniteLoss"]
    line = build(parse(["test", "--resume", str(run), *QUIET]), runs=False)
    assert (line.checkpoints.test_checkpoint, line.checkpoints.monitor) == ("best", "val/accuracy")
    line = build(parse(["test", "--resume", str(run), "--checkpoint.test_checkpoint", "last", *QUIET]), runs=False)
    assert line.checkpoints.test_checkpoint == "last"
    assert train.main(["test", "--resume", str(run), *QUIET]) == 0


REFUSED: dict[str, tuple[Any, str]] = {
    "list": (
        {"guards": [{"class_path": "callbacks.guards.Contracts"}]},
        r"^a\.yaml: guards is \[.*\], but must be a mapping such as \{finite_loss: null\}, where null disables one of",
    ),
    "nothing": ({"guards": None}, r"^a\.yaml: guards is None, but must be a mapping"),
    "misspelt": (
        {"guards": {"finite_los": None}},
        r"^a\.yaml: guards\.finite_los is None, but there is no such guard",
    ),
    "dotted": (
        {"guards.finite_los": None},
        r"^a\.yaml: guards\.finite_los is None, but there is no such guard",
    ),
    "false": ({"guards": {"sanity_checks": False}}, r"^a\.yaml: guards\.sanity_checks is False, but must be null"),
}


@pytest.mark.parametrize(("settings", "said"), REFUSED.values(), ids=REFUSED)
def test_other_guards_are_rejected(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_guards(settings, "a.yaml")


def test_a_callback_in_a_list_of_guards_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"^run/config\.yaml: guards has a\.B, which is none of callbacks\.guards\."):
        from_list({"guards": [{"class_path": "a.B"}]}, "run/config.yaml")
    with pytest.raises(ValueError, match=r"^run/config\.yaml: guards is 1, but must be a mapping"):
        from_list({"guards": 1}, "run/config.yaml")


def test_a_wrong_guard_is_one_sentence_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = tmp_path / "layer.yaml"
    layer.write_text("guards: [callbacks.guards.Contracts]\n")
    assert train.main(["fit", "--config", str(DEMO), "--config", str(layer)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"error: {layer}: guards is ['callbacks.guards.Contracts'], but must be a mapping" in error
