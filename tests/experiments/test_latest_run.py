"""`--resume latest` resumes the run that was started last, and `--help` of a class describes this class."""

from pathlib import Path

import pytest

import train
from experiments.parsing.call_arguments import with_latest
from experiments.run_directory import latest_run
from experiments.saving import environment
from tests.command import ROOT

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create run directories; the second-latest of all runs is the latest run of ELR's demo."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "elr/demo/2026-11-24_10-00-00-000000",
        "elr/demo/2026-11-25_09-00-00-000000",
        "adele/demo/2026-11-25_10-00-00-000000",
        "compare/elr/demo",
        "claims/elr/seed_0",
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("")
    (tmp_path / "runs/elr/demo/2026-11-26_00-00-00-000000").mkdir()  # it never started
    return tmp_path / "runs"


def test_the_latest_run_is_of_all_or_of_one_configuration(runs: Path) -> None:
    assert latest_run(None) == Path("runs/adele/demo/2026-11-25_10-00-00-000000")
    assert latest_run("configs/elr/demo.yaml") == Path("runs/elr/demo/2026-11-25_09-00-00-000000")
    with pytest.raises(FileNotFoundError, match="there is no run in runs/elr/cifar10; give the run directory"):
        latest_run("configs/elr/cifar10.yaml")


def test_a_configuration_with_a_model_chooses_and_a_layer_stays(runs: Path) -> None:
    elr, layer = "runs/elr/demo/2026-11-25_09-00-00-000000", str(ROOT / "configs/callbacks/label_report.yaml")
    for of in (
        ["--config", "configs/elr/demo.yaml"],
        ["-c", "configs/elr/demo.yaml"],
        ["--config=configs/elr/demo.yaml"],
    ):
        for latest, expected in (
            (["--resume", "latest"], ["--resume", elr]),
            (["--resume=latest"], [f"--resume={elr}"]),
        ):
            assert with_latest(["test", *of, *latest, "--config", layer]) == ["test", *expected, "--config", layer]
    assert with_latest(["test", "--resume", "latest"])[2] == "runs/adele/demo/2026-11-25_10-00-00-000000"
    assert with_latest(["test", "--config", "latest"]) == ["test", "--config", "latest"]


def test_a_run_goes_on_by_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = environment.environment()
    fit = ("fit", "--config", "configs/elr/demo.yaml", *QUIET)
    assert train.main([*fit, "--model.strength", "2", "--trainer.max_epochs", "1"]) == 0
    monkeypatch.setattr(environment, "environment", lambda: "2027-01-01, another machine")
    assert train.main([*fit, "--resume", "latest", "--trainer.max_epochs", "2"]) == 0
    [run] = (tmp_path / "runs/elr/demo").iterdir()
    assert environment.recorded_environments(run) == [first, "2027-01-01, another machine"]
    assert (run / "metrics.csv").read_text().count("\n") == 5
    assert "strength: 2.0" in (run / "config.yaml").read_text()


@pytest.mark.parametrize("of", ["--model.help=lightning_modules.noisy_labels.elr.ELR", "--help"])
def test_help_names_no_classes_of_other_packages(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["fit", of])
    shown = capsys.readouterr().out
    assert "torch.optim.Adafactor" not in shown
    assert "torch.nn.Linear" not in shown
    if of != "--help":
        assert len(shown.splitlines()) < 60
        assert "weight lambda of the regularisation. (type: float," in shown
