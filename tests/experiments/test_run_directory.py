"""A run keeps its checkpoints and its metrics table, and adds the measurements of a later test."""

import csv
import os
import shutil
from pathlib import Path

import pytest
import torch

import train
from experiments.results import read_test_metrics
from experiments.run_directory import (
    add_test_metrics,
    latest_checkpoint,
    read_checkpoint,
    refuse_fewer_epochs,
    write_test_metrics,
    writing,
)

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


def test_epoch_means_after_a_resume_inside_an_epoch_are_those_of_the_whole_run(tmp_path: Path) -> None:
    """The checkpoint is at step 14, the fourth batch of ten in the second epoch."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    demo = ("fit", "--config", "configs/elr/demo.yaml", "--trainer.max_epochs", "3", "--checkpoint.every_n_steps", "14")
    assert train.main([*demo, "--run_directory", str(whole), *QUIET, "--trainer.max_steps", "16"]) == 0
    shutil.copytree(whole, resumed)
    (resumed / "checkpoints/last.ckpt").unlink()
    saved = read_checkpoint(resumed / "checkpoints/step.ckpt")
    assert saved["global_step"] == 14
    assert saved["metrics_table"]["means"]
    shutil.rmtree(whole)
    assert train.main([*demo, "--run_directory", str(whole), *QUIET]) == 0
    assert train.main(["fit", "--resume", str(resumed), *QUIET, "--trainer.max_steps", "-1"]) == 0
    assert (resumed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    rows = [row for row in csv.DictReader((resumed / "metrics.csv").open()) if row["train/loss"]]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("last", "step", "newest"), [(10, 14, "step"), (20, 14, "last"), (None, 3, "step"), (3, None, "last")]
)
def test_a_run_goes_on_from_its_newest_checkpoint(
    last: int | None, step: int | None, newest: str, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name, steps in {"last": last, "step": step, "best": 99}.items():
        if steps is not None:
            torch.save({"state_dict": {}, "global_step": steps}, tmp_path / f"checkpoints/{name}.ckpt")
    assert latest_checkpoint(tmp_path).stem == newest


def test_a_run_without_a_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no checkpoints/last\.ckpt or step\.ckpt"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("factor", [1, 1 + 8e-6, 1 - 8e-6])
@pytest.mark.parametrize("value", [0.8, 3e-7, -12.5])
def test_a_later_test_that_rounds_otherwise_adds_its_metrics(value: float, factor: float, tmp_path: Path) -> None:
    write_test_metrics(tmp_path, {"test/acr": value, "test/zero": 0.0})
    add_test_metrics(tmp_path, {"test/acr": value * factor, "test/zero": 0.0, "test/new": 1.0})
    assert read_test_metrics(tmp_path / "test_metrics.csv") == {"test/acr": value, "test/new": 1.0, "test/zero": 0.0}
    assert not list(tmp_path.glob("test_metrics_*.csv"))


@pytest.mark.parametrize("factor", [1 + 1.2e-5, 1 - 1.2e-5, 2])
@pytest.mark.parametrize("value", [0.8, 3e-7, -12.5])
def test_a_later_test_that_measures_otherwise_is_kept_apart(value: float, factor: float, tmp_path: Path) -> None:
    write_test_metrics(tmp_path, {"test/acr": value})
    add_test_metrics(tmp_path, {"test/acr": value * factor, "test/new": 1.0})
    assert read_test_metrics(tmp_path / "test_metrics.csv") == {"test/acr": value}
    [other] = tmp_path.glob("test_metrics_*.csv")
    assert read_test_metrics(other) == {"test/acr": value * factor, "test/new": 1.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished") / "run"
    demo = ("fit", "--config", "configs/elr/demo_baseline.yaml", "--trainer.max_epochs", "2", *QUIET)
    assert train.main([*demo, "--run_directory", str(directory), "--test_after_fit", "true"]) == 0
    return directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def killed(*args: object) -> None:
    raise KeyboardInterrupt


def contents(directory: Path) -> dict[Path, bytes]:
    written = (path for path in directory.rglob("*") if path.is_file() and path.name != "traceback.txt")
    return {path: path.read_bytes() for path in written if "tensorboard" not in path.parts}


def test_weights_alone_are_no_training_to_go_on_with(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "global_step": 1}, tmp_path / "weights.ckpt")
    with pytest.raises(ValueError, match="contains no training progress"):
        refuse_fewer_epochs(tmp_path / "weights.ckpt", 3)


@pytest.mark.parametrize("subcommand", ["fit", "test", "predict"])
def test_two_calls_do_not_write_to_one_directory(
    subcommand: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with writing(run):
        before = contents(run)
        assert train.main([subcommand, "--resume", str(run), *QUIET]) == 1
        assert f"{run} is in use by process {os.getpid()} on " in capsys.readouterr().err
        assert contents(run) == before


def test_a_refused_call_changes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    assert train.main(["fit", "--resume", str(run), "--trainer.max_epochs", "1", *QUIET]) == 1
    assert "trainer.max_epochs is 1, but" in capsys.readouterr().err
    assert contents(run) == before


def test_a_complete_run_is_called_again_and_keeps_its_table(run: Path) -> None:
    before = (run / "metrics.csv").read_bytes()
    for more in ((), ("--test_after_fit", "true")):
        assert train.main(["fit", "--resume", str(run), *more, *QUIET]) == 0
        assert (run / "metrics.csv").read_bytes() == before
    figure = run / "figures/early_learning.png"
    figure.rename(figure.with_name(".early_learning.partial.png"))  # a kill while the figure was drawn
    assert train.main(["fit", "--resume", str(run), *QUIET]) == 0
    assert list(figure.parent.iterdir()) == [figure]
    (run / "test_metrics.csv").unlink()  # a test that was killed
    assert train.main(["test", "--resume", str(run), *QUIET]) == 0
    assert (run / "metrics.csv").read_bytes() == before


def test_training_on_forgets_the_tests_before(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(run / "test_metrics.csv", run / "test_metrics_2026.csv")
    monkeypatch.setattr("experiments.saving.checkpoints.StepCheckpoint.on_train_batch_end", killed)
    with pytest.raises(SystemExit):
        train.main(["fit", "--resume", str(run), "--trainer.max_epochs", "3", *QUIET])
    assert not list(run.glob("test_metrics*.csv"))


def test_a_run_killed_between_its_first_checkpoints_goes_on(run: Path) -> None:
    whole = read_checkpoint(run / "checkpoints/last.ckpt")
    (run / "checkpoints/last.ckpt").rename(run / "checkpoints/best.ckpt")
    assert latest_checkpoint(run).stem == "best"
    assert train.main(["fit", "--resume", str(run), "--trainer.max_epochs", "3", *QUIET]) == 0
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == whole["global_step"] * 3 // 2


@pytest.mark.parametrize("subcommand", ["test", "predict"])
def test_a_run_killed_before_its_first_checkpoint_begins_again(
    subcommand: str, run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "test_metrics.csv").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints/last.ckpt.partial").write_text("half")
    assert train.main([subcommand, "--resume", str(run), *QUIET]) == 1
    assert "last.ckpt does not exist" in capsys.readouterr().err
    assert train.main(["fit", "--resume", str(run), "--test_after_fit", "true", *QUIET]) == 0
    for table in ("metrics.csv", "test_metrics.csv"):
        assert (run / table).read_bytes() == (finished / table).read_bytes()
    ours, theirs = (read_checkpoint(each / "checkpoints/last.ckpt")["state_dict"] for each in (run, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(list(run.glob("tensorboard/*tfevents*"))) == len(list(finished.glob("tensorboard/*tfevents*")))
    assert not list(run.rglob("*.partial*"))


def test_a_run_killed_before_its_first_checkpoint_begins_again_from_the_weights_it_was_given(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.parent)  # the run is resumed from a different working directory
    given = ("fit", "--config", "configs/elr/demo_baseline.yaml", "--ckpt_path", "run/checkpoints/last.ckpt", *QUIET)
    longer = (*given, "--trainer.max_epochs", "3", "--seed_everything", "1", "--run_directory")
    assert train.main([*longer, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("experiments.saving.checkpoints.StepCheckpoint.on_train_batch_end", killed)
        with pytest.raises(SystemExit):
            train.main([*longer, str(tmp_path / "killed")])
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time, it resumes from its own
        assert train.main(["fit", "--resume", str(tmp_path / "killed"), *QUIET]) == 0
        ours, theirs = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("killed", "whole"))
        assert ours["global_step"] == theirs["global_step"]
        assert all(torch.equal(ours["state_dict"][name], theirs["state_dict"][name]) for name in theirs["state_dict"])
    assert "ckpt_path" not in (tmp_path / "killed/config.yaml").read_text()
    assert train.main(["test", "--resume", str(tmp_path / "killed"), *QUIET]) == 0


def test_a_failed_start_leaves_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = ("fit", "--config", "configs/elr/demo_baseline.yaml", "--run_directory", str(tmp_path / "runs/new"), *QUIET)
    assert train.main([*demo, "--model.num_classes", "7"]) == 1
    assert "model.num_classes is 7" in capsys.readouterr().err
    assert not list(tmp_path.rglob("new"))


@pytest.mark.parametrize("option", ["--run_directory", "--resume", "--ckpt_path", "--config"])
def test_a_name_of_300_letters_is_one_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["fit", "--config", "configs/elr/demo_baseline.yaml", option, "a" * 300, *QUIET]) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert "a" * 300 in error
