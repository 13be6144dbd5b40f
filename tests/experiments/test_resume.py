"""A run that is killed and resumed ends in bitwise the same state as an uninterrupted run.

Resuming a killed run, and a run that receives a signal, use processes started as a user does. Other runs are forks of
the test process; in the nightly tests, one run is killed in a process started as a user does.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from tests.command import ROOT, run, start
from tests.conformance.runs import run as here
from tests.two_processes import FORK

EMA = (
    "--trainer.callbacks+={class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {use_buffers: false}}"
)
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


def assert_same(one: object, other: object, where: str = "checkpoint") -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other), where
        for position, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{position}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where  # type: ignore[arg-type]
    elif isinstance(one, str) and "checkpoints" in one:
        return  # the run directories differ
    else:
        assert one == other, where


def alone(*arguments: str | Path) -> None:
    """Run in a separate process group."""
    os.setpgid(0, 0)
    here(*arguments)


def read(directory: Path) -> dict:
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


ELR = ("elr/demo.yaml", (EMA, "--checkpoint.every_n_steps", "7"))
ELR_PLUS = ("elr_plus/demo.yaml", ("--trainer.accumulate_grad_batches", "1"))


@pytest.mark.parametrize(
    ("config", "more", "begins", "resumes"),
    [
        pytest.param(*ELR, False, True, id="elr with averaged weights, saved within epochs"),
        pytest.param(*ELR_PLUS, False, False, id="elr+ with mixup, saved after epochs"),
        pytest.param(*ELR, True, True, id="elr in a user's process", marks=pytest.mark.nightly),
    ],
)
def test_killed_run_ends_where_the_uninterrupted_one_does(
    config: str, more: tuple[str, ...], begins: bool, resumes: bool, tmp_path: Path
) -> None:
    """Some runs are started, and some resumed, in processes started as a user does."""
    arguments = ("fit", "--config", str(ROOT / "configs" / config), "--trainer.max_epochs", "8", *QUIET, *more)
    here(*arguments, "--run_directory", tmp_path / "whole")
    begin = (*arguments, "--run_directory", tmp_path / "killed")
    process: Any = start(*begin) if begins else FORK.Process(target=alone, args=begin)
    if not begins:
        process.start()
    saved = tmp_path / "killed" / "checkpoints" / ("step.ckpt" if "--checkpoint.every_n_steps" in more else "last.ckpt")
    table = tmp_path / "killed" / "metrics.csv"
    deadline = time.monotonic() + 600
    while not (saved.exists() and table.exists() and len(table.read_text().splitlines()) > 4):
        assert (process.poll() if begins else process.exitcode) is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait() if begins else process.join()
    steps = torch.load(saved, weights_only=True)["global_step"]
    (run if resumes else here)("fit", "--resume", tmp_path / "killed")
    whole, resumed = read(tmp_path / "whole"), read(tmp_path / "killed")
    assert 0 < steps < whole["global_step"]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "targets", "metrics_table", "epoch", "global_step"):
        assert_same(whole[part], resumed[part], part)
    assert_same(whole.get("current_model_state"), resumed.get("current_model_state"))
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == table.read_bytes()
    early = Path("early_learning.csv")
    assert (tmp_path / "whole" / early).read_bytes() == (tmp_path / "killed" / early).read_bytes()


def test_a_run_ended_by_sigterm_is_not_taken_for_complete(tmp_path: Path) -> None:
    demo = ("fit", "--config", "configs/elr/demo.yaml", "--trainer.max_epochs", "100000", *QUIET)
    process = start(*demo, "--run_directory", tmp_path, "--test_after_fit", "true")
    deadline = time.monotonic() + 600
    while not (tmp_path / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "ended by SIGTERM; resume it with --resume" in output
    assert not (tmp_path / "test_metrics.csv").exists()


def test_resuming_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["fit", "--resume", str(tmp_path)]) == 1
    assert "config.yaml does not exist" in capsys.readouterr().err
