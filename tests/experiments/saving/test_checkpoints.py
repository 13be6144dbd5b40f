"""The saved state of a run, and exact resumption from it."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from experiments.run_directory import read_checkpoint
from experiments.saving.checkpoints import StepCheckpoint
from tests.conformance.runs import run

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
DEMO = ("fit", "--config", "configs/elr/demo_baseline.yaml", "--data.batch_size", "300", *QUIET)
"""Four batches per epoch."""


class Killed(Exception):
    """Imitates a kill."""


def kill_after(monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int) -> None:
    saves = StepCheckpoint.on_train_batch_end

    def saves_and_dies(self: StepCheckpoint, trainer: Trainer, *args: object) -> None:
        saves(self, trainer, *args)
        if (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready) == (epoch, batch):
            raise Killed

    monkeypatch.setattr(StepCheckpoint, "on_train_batch_end", saves_and_dies)


ACCUMULATED = "{class_path: lightning.pytorch.callbacks.GradientAccumulationScheduler, init_args: {scheduling: {1: 2}}}"
SETTINGS = {
    "accumulated gradients": ("--trainer.accumulate_grad_batches", "2"),
    "gradients accumulated later": (f"--trainer.callbacks+={ACCUMULATED}",),
    "validation within an epoch": ("--trainer.val_check_interval", "2"),
}


@pytest.mark.parametrize("more", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_run_killed_twice_within_an_epoch_ends_as_the_whole_one(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = (*DEMO, "--trainer.max_epochs", "3", "--checkpoint.every_n_steps", "1", *more)
    run(*demo, "--run_directory", tmp_path / "whole")
    begin, go_on = (*demo, "--run_directory", tmp_path / "killed"), ("fit", "--resume", tmp_path / "killed")
    for command, place in ((begin, (1, 2)), (go_on, (2, 3))):
        with monkeypatch.context() as patch:
            kill_after(patch, *place)
            with pytest.raises(Killed):
                run(*command)
    run(*go_on)
    whole, killed = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "killed"))
    assert killed["global_step"] == whole["global_step"]
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(killed["state_dict"][name], tensor), name
    assert (tmp_path / "killed/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


@pytest.mark.parametrize("more", [(), ("--trainer.max_steps", "5")], ids=["epochs", "steps"])
def test_the_end_of_training_is_always_saved(more: tuple[str, ...], tmp_path: Path) -> None:
    epochs = ("--trainer.max_epochs", "2", "--checkpoint.every_n_epochs", "5")
    run(*DEMO, *epochs, *more, "--run_directory", tmp_path)
    assert read_checkpoint(tmp_path / "checkpoints/last.ckpt")["global_step"] == (5 if more else 8)
    if not more:
        run("fit", "--resume", tmp_path, "--trainer.max_epochs", "3")
        rows = csv.DictReader((tmp_path / "metrics.csv").open())
        assert [row["epoch"] for row in rows if row["train/loss"]] == ["0", "1", "2"]
