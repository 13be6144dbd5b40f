"""After a stop signal, a run saves a state from which all ranks can resume, and ends with an exit status of its own."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

import train
from experiments.run_directory import latest_checkpoint, read_checkpoint
from experiments.saving.checkpoints import StepCheckpoint
from lightning_modules.tasks.classifier import ClassifierSteps
from tests.two_processes import in_two_processes

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
DEMO = (
    "fit",
    "--config",
    "configs/elr/demo_baseline.yaml",
    "--trainer.max_epochs",
    "3",
    "--trainer.accelerator",
    "cpu",
)
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


def stopped(directory: Path, ranks: set[int], hook: str, *more: str, number: int = signal.SIGTERM) -> int:
    """Train, send the signal to the given ranks in the second epoch, and return the exit status."""
    own = getattr(StepCheckpoint, hook)

    def sends(self: StepCheckpoint, trainer: Trainer, *args: object) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        within = hook != "on_train_batch_start" or progress.ready == 3
        if trainer.current_epoch == 1 and within and trainer.global_rank in ranks:
            os.kill(os.getpid(), number)
        own(self, trainer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepCheckpoint, hook, sends)
        return train.main([*DEMO, *QUIET, *more, "--run_directory", str(directory)])


@pytest.mark.parametrize(
    ("hook", "ranks", "steps"),
    [
        ("on_train_batch_start", {1}, 13),
        pytest.param("on_train_batch_start", {0}, 13, marks=pytest.mark.nightly),
        pytest.param("on_train_batch_start", {0, 1}, 13, marks=pytest.mark.nightly),
        pytest.param("on_train_epoch_end", {1}, 20, marks=pytest.mark.nightly),
        ("on_validation_batch_start", {0, 1}, 10),  # resumes from the previous checkpoint
    ],
)
def test_two_processes_stop_together(hook: str, ranks: set[int], steps: int, tmp_path: Path) -> None:
    assert in_two_processes(stopped, tmp_path, ranks, hook, *TWO) == [143, 143]
    assert read_checkpoint(latest_checkpoint(tmp_path))["global_step"] == steps


@pytest.mark.parametrize("accumulated", ["1", "2"])
def test_a_stopped_run_ends_as_the_whole_one(
    accumulated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("on_train_batch_start", "--trainer.accumulate_grad_batches", accumulated)
    assert stopped(tmp_path / "whole", set(), *settings) == 0
    assert stopped(tmp_path / "run", {0}, *settings) == 143
    assert f"resume it with --resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert train.main(["fit", "--resume", str(tmp_path / "run"), *QUIET]) == 0
    assert (tmp_path / "run/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    assert not (tmp_path / "run/checkpoints/step.ckpt").exists()


def test_slurm_runs_a_job_again_that_it_stops_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slurm = {"NTASKS": "1", "JOB_NAME": "noise", "JOB_ID": "421", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in {**slurm, "NTASKS_PER_NODE": "1", "NNODES": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert stopped(tmp_path / "run", {0}, "on_train_batch_start", number=signal.SIGUSR1) == 143
    assert (tmp_path / "asked").read_text() == "requeue 421\n"
    assert read_checkpoint(latest_checkpoint(tmp_path / "run"))["global_step"] == 13


@pytest.mark.parametrize("own", [True, False], ids=["all processes", "a worker alone"])
def test_a_signal_that_ends_a_worker_is_not_lack_of_memory(
    own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(*_: object) -> None:
        with pytest.raises(SIGTERMException) if own else nullcontext():
            os.kill(os.getpid(), signal.SIGTERM if own else 0)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")

    monkeypatch.setattr(ClassifierSteps, "predict_step", ended)
    command = ["predict", "--config", "configs/elr/demo_baseline.yaml", "--ckpt_path", "none"]
    assert train.main([*command, "--run_directory", str(tmp_path), *QUIET]) == (143 if own else 1)
    error = capsys.readouterr().err
    assert "memory" not in error
    assert ("ended by SIGTERM; resume it with" if own else "a DataLoader worker was ended from outside") in error
