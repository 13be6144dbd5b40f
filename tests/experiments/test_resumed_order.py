"""A run that is killed and resumed has the samples and weights of an uninterrupted run, however its length is limited.

The order of the samples depends only on the seed and the epoch.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

import train
from tests.conformance.runs import written


def ends(steps: int) -> dict[str, dict[str, Any]]:
    """Return the settings that end a run with `steps` steps an epoch in its fourth epoch, by what ends it."""
    last = 3 * steps + 1
    return {
        "epochs": {"trainer.max_epochs": 4},
        "steps": {"trainer.max_epochs": -1, "trainer.max_steps": last},
        "steps of many epochs": {"trainer.max_epochs": 1000, "trainer.max_steps": last},
        "both": {"trainer.max_epochs": 4, "trainer.max_steps": last},
        "time": {"trainer.max_epochs": -1, "trainer.max_time": "00:12:00:00"},
        "early stop": {"trainer.max_epochs": 1000},
    }


class Killed(Exception):
    """Ends a run at once: the command line does not handle this error."""


class Journal(Callback):
    """Write the samples of each training batch to a file, interrupt the run once, and stop it after some steps.

    Args:
        kill_at: step before which the run is interrupted; -1 never interrupts it.
        signalled: whether SIGTERM interrupts the run, instead of an error.
        stop_after: number of steps after which training stops, as a timer or early stopping does.
    """

    def __init__(self, kill_at: int, signalled: bool, stop_after: int) -> None:
        self.kill_at = kill_at
        self.signalled = signalled
        self.stop_after = stop_after

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        directory = Path(str(trainer.log_dir))
        killed = directory / f"killed_{trainer.global_rank}"
        due = trainer.global_step == self.kill_at and batch_idx % trainer.accumulate_grad_batches == 0
        if due and not killed.exists():
            killed.touch()
            if not self.signalled:
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)
        with open(directory / f"journal_{trainer.global_rank}.txt", "a", encoding="utf-8") as file:
            file.write(f"{trainer.global_step} {batch_idx} epoch {trainer.current_epoch}: {samples(batch)}\n")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.stop_after


def samples(batch: Any) -> list[int]:
    return [row for each in batch for row in samples(each)] if isinstance(batch, list) else batch["index"].tolist()


def fit(directory: Path, name: str, more: dict[str, Any], kill_at: int | None, signalled: bool, steps: int) -> int:
    """Train; if the run is interrupted, resume it."""
    directory.mkdir(exist_ok=True)
    journal = {"kill_at": -1 if kill_at is None else kill_at, "signalled": signalled, "stop_after": 3 * steps + 1}
    callbacks = {"class_path": f"{__name__}.Journal", "init_args": journal}
    run = str(directory / "run")
    begin = ["fit", "--config", str(written(name, directory, more)), "--run_directory", run]
    begin.append(f"--trainer.callbacks+={callbacks}")
    try:
        status = train.main(begin)
    except Killed:
        status = 128 + signal.SIGKILL
    if kill_at is None:
        return status
    assert status == 128 + (signal.SIGTERM if signalled else signal.SIGKILL)
    return train.main(["fit", "--resume", run])


def journal(directory: Path, rank: int = 0) -> dict[tuple[str, str], str]:
    """Return the samples of each batch. A batch that was repeated counts as it was repeated."""
    lines = [line.split(" ", 2) for line in (directory / f"run/journal_{rank}.txt").read_text().splitlines()]
    return {(step, batch): rest for step, batch, rest in lines}


def assert_same(one: Path, other: Path, rank: int = 0) -> None:
    assert journal(one, rank) == journal(other, rank)
    ours, theirs = (torch.load(each / "run/checkpoints/last.ckpt", weights_only=True) for each in (one, other))
    assert ours["global_step"] == theirs["global_step"]
    assert ours["epoch"] == theirs["epoch"]
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    assert all(torch.equal(ours["state_dict"][key], theirs["state_dict"][key]) for key in ours["state_dict"])


WITHIN = {"checkpoint.every_n_steps": 1}
UNVALIDATED = {
    "data.init_args.validation_fraction": 0,
    "checkpoint": {"monitor": None, "test_checkpoint": "last", "also_test_best": False},
}
ACCUMULATED = {"trainer.accumulate_grad_batches": 2}
RUNS = {"elr": 4, "score_sde": 4, "diffusion_finetuning": 3}
DAILY = {
    ("elr", "steps", "at an epoch's end"),
    ("elr", "steps", "within an epoch"),
    ("elr", "steps", "not validated"),
    ("elr", "both", "at an epoch's end"),
    ("elr", "time", "at an epoch's end"),
    ("elr", "early stop", "within an epoch"),
    ("score_sde", "steps", "at an epoch's end"),
    ("diffusion_finetuning", "steps of many epochs", "at an epoch's end"),
}
"""Cases of the default suite: those that differ in what Lightning does."""
KILLS: dict[str, tuple[int, bool, dict[str, Any]]] = {  # steps after the second epoch, whether by a signal, settings
    "at an epoch's end": (0, False, {}),
    "within an epoch": (1, False, WITHIN),
    "by a signal within an epoch": (1, True, {}),
    "not validated": (0, False, UNVALIDATED),
    "accumulated": (0, False, ACCUMULATED),
}


def cases() -> list[Any]:
    return [
        pytest.param(name, end, kill, marks=[] if (name, end, kill) in DAILY else pytest.mark.nightly)
        for name in RUNS
        for end in ends(1)
        for kill in KILLS
        if name == "elr" or kill != "not validated"
    ]


@pytest.mark.parametrize(("name", "end", "kill"), cases())
def test_a_resumed_run_trains_on_the_samples_of_an_uninterrupted_one(
    name: str, end: str, kill: str, tmp_path: Path
) -> None:
    later, signalled, more = KILLS[kill]
    steps = -(-RUNS[name] // more.get("trainer.accumulate_grad_batches", 1))
    horizon = {"trainer.callbacks.0.init_args": {"horizon": 4}} if (name, end) == ("elr", "time") else {}
    settings = {**ends(steps)[end], **more, **horizon}
    assert fit(tmp_path / "whole", name, settings, None, False, steps) == 0
    assert fit(tmp_path / "killed", name, settings, 2 * steps + later, signalled, steps) == 0
    assert_same(tmp_path / "whole", tmp_path / "killed")
