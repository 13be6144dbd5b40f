"""A run that is killed and resumed ends in bitwise the same state as an uninterrupted run.

Resuming a killed run, and a run that receives a signal, use processes started as a user does. Other runs are forks of
the test process; in the nightly tests, one run is killed in a process started as a user does.
"""

import os
import signal
import time
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

import train
from tests.command import ROOT, run, start
from tests.conformance.runs import run as here
from tests.conformance.runs import written
from tests.two_processes import FORK, in_two_processes

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
        pytest.param(*ELR_PLUS, False, False, id="elr+ with mixup, saved after epochs", marks=pytest.mark.nightly),
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


@pytest.mark.nightly
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


class Stopped(Exception):
    """Imitates a kill."""


class Shown(Callback):
    """Records the epoch and the samples of each batch of this process, and ends the run at a given batch."""

    batches: ClassVar[dict[int, tuple[int, list[int]]]] = {}
    ends: ClassVar[tuple[str, int] | None] = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        number = trainer.fit_loop.total_batch_idx
        if (kill := self.ends) and number == kill[1]:
            if kill[0] != "signal":
                raise Stopped
            os.kill(os.getpid(), signal.SIGTERM)
        self.batches[number] = trainer.current_epoch, batch["index"].tolist()


METHODS = {"classifier": "elr", "generator": "score_sde", "fine-tuning": "flow_finetuning_flux"}
STOPPING = {"monitor": "train/loss", "patience": 2, "min_delta": 1e9}
STEPS, MINUTES = 7, 14  # both within an epoch of three or four batches, and after an optimizer step
ENDS: dict[str, dict[str, Any]] = {
    "epochs": {"trainer.max_epochs": 3},
    "steps": {"trainer.max_epochs": -1, "trainer.max_steps": STEPS},
    "epochs before steps": {"trainer.max_epochs": 3, "trainer.max_steps": 1000},
    "steps before epochs": {"trainer.max_epochs": 5, "trainer.max_steps": STEPS},
    "time": {"trainer.max_epochs": -1, "trainer.max_time": f"00:00:{MINUTES:02}:00"},
    "early stop": {
        "trainer.max_epochs": -1,
        "trainer.callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": STOPPING}],
    },
}
UNVALIDATED = {
    **{"trainer.limit_val_batches": 0, "checkpoint.monitor": None},
    **{"checkpoint.test_checkpoint": "last", "checkpoint.also_test_best": False},
}
SHOWN = "--trainer.callbacks+={class_path: tests.experiments.test_resume.Shown}"
Batches = dict[int, tuple[int, list[int]]]


def shown(*arguments: str | Path, ends: tuple[str, int] | None = None) -> Batches:
    """Train, and return the epoch and the samples of each batch. A batch takes a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shown, "batches", {})
        patch.setattr(Shown, "ends", ends)
        patch.setattr(Timer, "time_elapsed", lambda *_: 60.0 * (1 + max(Shown.batches, default=-1)))
        if ends is not None and ends[0] != "signal":
            with pytest.raises(Stopped):
                here(*arguments)
        else:
            assert train.main([str(each) for each in arguments]) == (143 if ends else 0)
        return Shown.batches


def assert_ends_alike(whole: Path, resumed: Path) -> None:
    one, other = read(whole), read(resumed)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "metrics_table", "epoch", "global_step"):
        assert_same(one[part], other[part], part)
    for table in set(whole.glob("*.csv")) - {whole / "usage.csv"}:
        assert table.read_bytes() == (resumed / table.name).read_bytes(), table.name


DEFAULT = {
    ("classifier", "epochs before steps", False, 1, "end"),
    ("classifier", "time", True, 2, "within"),
    ("fine-tuning", "steps before epochs", False, 1, "end"),
    ("classifier", "steps", True, 1, "signal"),
}
TABLE = product(METHODS, ENDS, (True, False), (1, 2), ("end", "within", "signal"))


@pytest.mark.parametrize(
    ("method", "end", "validated", "accumulated", "kill"),
    [pytest.param(*row, marks=() if row in DEFAULT else pytest.mark.nightly) for row in TABLE],
)
def test_a_resumed_run_is_shown_each_sample_in_the_epoch_of_the_whole_one(
    method: str, end: str, validated: bool, accumulated: int, kill: str, tmp_path: Path
) -> None:
    more = {**ENDS[end], "trainer.accumulate_grad_batches": accumulated, **({} if validated else UNVALIDATED)}
    config = written(METHODS[method], tmp_path, {"trainer.callbacks": [], **more})
    begin = ("fit", "--config", config, SHOWN, "--run_directory")
    whole = shown(*begin, tmp_path / "whole")
    of_epoch = [epoch for epoch, _ in whole.values()].count(0)
    assert len(whole) > of_epoch + 1
    last = ("--checkpoint.every_n_steps", "1") if kill == "within" else ()
    at = of_epoch if kill == "end" else of_epoch + accumulated
    first = shown(*begin, tmp_path / "killed", *last, ends=(kill, at))
    rest = shown("fit", "--resume", tmp_path / "killed")
    assert first.items() < whole.items()
    assert rest == {number: batch for number, batch in whole.items() if number >= min(rest)}
    assert min(rest) in {len(first), of_epoch}  # a run that is stopped before validation goes back to the epoch's start
    assert_ends_alike(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("limit", ["steps", "time"])
def test_a_run_that_ended_within_an_epoch_is_continued_there(limit: str, tmp_path: Path) -> None:
    """A higher limit gives the batches and weights of a run that had this limit from the beginning."""
    config = written("elr", tmp_path, {**ENDS[limit], "trainer.callbacks": []})
    begin = ("fit", "--config", config, SHOWN, "--run_directory")
    more = ("--trainer.max_steps", "11") if limit == "steps" else ("--trainer.max_time", "00:00:17:00")
    whole = shown(*begin, tmp_path / "whole", *more)
    first = shown(*begin, tmp_path / "run")
    assert len(first) == (STEPS if limit == "steps" else MINUTES)
    rest = shown("fit", "--resume", tmp_path / "run", *more)
    assert {**first, **rest} == whole
    assert min(rest) == len(first)
    assert_same(read(tmp_path / "whole")["state_dict"], read(tmp_path / "run")["state_dict"])


def test_a_run_from_a_checkpoint_of_an_epochs_last_batch_is_resumed_twice(tmp_path: Path) -> None:
    saves = {"every_n_train_steps": 4, "save_top_k": -1, "filename": "{step}"}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saves}
    config = written("elr", tmp_path, {"trainer.max_epochs": 3, "trainer.callbacks": [callback]})
    whole = shown("fit", "--config", config, SHOWN, "--run_directory", tmp_path / "whole")
    given = ("--ckpt_path", tmp_path / "whole/checkpoints/own/step=4.ckpt", "--checkpoint.every_n_steps", "1")
    first = shown("fit", "--config", config, SHOWN, "--run_directory", tmp_path / "run", *given, ends=("within", 6))
    rest = shown("fit", "--resume", tmp_path / "run")
    assert {**first, **rest} == {number: batch for number, batch in whole.items() if number >= 4}
    assert min(rest) == 6
    assert_same(read(tmp_path / "whole")["state_dict"], read(tmp_path / "run")["state_dict"])


TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")


@pytest.mark.parametrize(
    "end", [pytest.param(end, marks=() if end == "steps" else pytest.mark.nightly) for end in ENDS]
)
def test_both_ranks_are_shown_the_epoch_of_the_whole_run(end: str, tmp_path: Path) -> None:
    config = written("elr", tmp_path, {"trainer.callbacks": [], **ENDS[end]})
    begin = ("fit", "--config", config, SHOWN, *TWO, "--run_directory")
    whole = in_two_processes(shown, *begin, tmp_path / "whole")
    rests = in_two_processes(killed_and_resumed, begin, tmp_path / "killed")
    assert rests == whole
    assert_ends_alike(tmp_path / "whole", tmp_path / "killed")


def killed_and_resumed(begin: tuple[str | Path, ...], directory: Path) -> Batches:
    return {**shown(*begin, directory, ends=("end", 4)), **shown("fit", "--resume", directory)}
