import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train
from callbacks.guards.finite_loss import Diverged, Divergence, FiniteLoss
from experiments.results import read_test_metrics
from tests.callbacks.guards.test_finite_loss import Breaking, trainer_in
from tests.two_processes import in_two_processes

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
DIVERGES = "{class_path: callbacks.guards.Divergence, init_args: {beyond: 100}}"


@pytest.mark.parametrize("bad", [math.nan, math.inf, 11.0])
def test_a_loss_beyond_what_is_allowed_is_a_result_with_its_step(tmp_path: Path, bad: float) -> None:
    with pytest.raises(Diverged) as raised:
        trainer_in(tmp_path, FiniteLoss(), Divergence(beyond=10.0)).fit(Breaking(epoch=1, batch=2, bad=bad))
    assert raised.value.test_metrics == {"test/diverged": 1.0, "test/diverged_step": 8.0}
    assert " at step 8 (epoch 1, batch 2)" in str(raised.value)


def test_a_loss_that_is_large_and_allowed_is_none(tmp_path: Path) -> None:
    module = Breaking(epoch=1, batch=2, bad=9.0)
    trainer_in(tmp_path, Divergence(beyond=10.0)).fit(module)
    assert module.num_steps == 18


def test_what_fails_of_a_diverged_step_is_a_divergence_and_nothing_else_is(tmp_path: Path) -> None:
    class Fails(Breaking):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            loss = super().training_step(batch, batch_idx)
            if self.num_steps == 10:
                raise torch.linalg.LinAlgError("no eigenvalues")
            return loss

    with pytest.raises(Diverged, match="at step 8"):
        trainer_in(tmp_path, Divergence()).fit(Fails(epoch=1, batch=2))
    with pytest.raises(torch.linalg.LinAlgError):
        trainer_in(tmp_path, Divergence()).fit(Fails(epoch=99, batch=2))


def test_a_bound_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond must be a number"):
        Divergence(math.nan)


def fitted(directory: Path, rate: str, *more: Any) -> int:
    arguments = ["fit", "--config", "configs/elr/demo_baseline.yaml", "--run_directory", str(directory), *QUIET]
    arguments += ["--trainer.max_epochs", "2", "--test_after_fit", "true", "--trainer.callbacks+", DIVERGES]
    return train.main([*arguments, "--model.optimizer.init_args.lr", rate, *more])


def test_a_run_that_diverges_ends_well_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fitted(tmp_path / "stable", "0.01") == 0
    stable = read_test_metrics(tmp_path / "stable/test_metrics.csv")
    assert stable["test/diverged"] == 0
    assert "test/accuracy" in stable
    assert fitted(tmp_path / "run", "1e9") == 0
    found = read_test_metrics(tmp_path / "run/test_metrics.csv")
    assert found.keys() == {"test/diverged", "test/diverged_step"}
    assert found["test/diverged"] == 1
    assert 0 < found["test/diverged_step"] < 20
    assert "Ended early because the training loss became" in capsys.readouterr().out


@pytest.mark.nightly
def test_two_processes_end_together(tmp_path: Path) -> None:
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    assert in_two_processes(fitted, tmp_path, "1e9", *two) == [0, 0]
    assert read_test_metrics(tmp_path / "test_metrics.csv")["test/diverged"] == 1
