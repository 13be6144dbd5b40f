"""If a process fails and torchrun restarts the command, the command resumes its run.

The test that kills a process is in `test_clusters.py`.
"""

from pathlib import Path

import pytest

from experiments.parsing.call_arguments import with_restart

GIVEN = ["fit", "--config", "configs/elr/demo.yaml", "--trainer.callbacks+", "callbacks.labels.Memorization"]


def test_a_command_that_torchrun_starts_again_goes_on_with_what_its_run_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*GIVEN, "--run_directory", str(tmp_path), "--test_after_fit=true"]
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert with_restart(given) == given
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step.ckpt").touch()
    assert with_restart(given) == ["fit", "--resume", str(tmp_path), "--test_after_fit", "true"]
    assert with_restart(["test", *given[1:]]) == ["test", *given[1:]]
    resumed = ["fit", "--resume", str(tmp_path), "--trainer.max_epochs", "9"]
    assert with_restart(resumed) == resumed
    for restarts in ("0", None):  # torchrun's default, and no torchrun: a trained run is not overwritten
        monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS") if restarts is None else monkeypatch.setenv(
            "TORCHELASTIC_MAX_RESTARTS", restarts
        )
        assert with_restart(given) == given


def test_restarts_need_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match=r"torchrun --max_restarts 3 .* add --run_directory"):
        with_restart(GIVEN)


def test_restarted_ranks_do_not_meet_in_the_launchers_own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [*GIVEN, "--run_directory", "runs/none"]
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert with_restart(given) == given  # by default, torchrun does not restart
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    for command in (given, ["fit", "--resume", "runs/none"]):
        with pytest.raises(ValueError, match=r"--max_restarts 3 can hang.* set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
            with_restart(command)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert with_restart(given) == given
