"""Models distributed over processes: trained separately, all saved in a checkpoint, and listed if they are lost."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from datamodules.distributed.collectives import block
from lightning_modules.distributed.independent import Hosted, Independent, LostProcess
from tests.two_processes import TwoProcesses, in_two_processes

MODELS = 5


class Models(Hosted):
    """One vector per model; each vector is trained towards its own number, and counts its steps."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__(MODELS)
        self.weights = nn.Parameter(torch.arange(MODELS * 3.0, dtype=torch.float64).view(MODELS, 3))
        self.register_buffer("steps", torch.zeros(MODELS, dtype=torch.int64))


class Population(LightningModule):
    """Trains each model on the batch with Adam, whose state has one row per model."""

    def __init__(self) -> None:
        super().__init__()
        self.models = Models()
        self.shared = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def setup(self, stage: str) -> None:
        self.models.deal()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.models.steps += 1
        number = torch.tensor(self.models.own, dtype=torch.float64)[:, None]
        return ((self.models.weights * batch[0].mean() - number**2) ** 2).sum() + (self.shared**2).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(directory: Path, epochs: int, strategy: Any = "auto", callback: Callback | None = None, **more: Any) -> Trainer:
    options: dict[str, Any] = {"accelerator": "cpu", "use_distributed_sampler": False, "logger": False}
    options |= {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [callback] if callback else []
    devices = int(os.environ.get("WORLD_SIZE", 1))
    trainer = Trainer(max_epochs=epochs, strategy=strategy, devices=devices, callbacks=callbacks, **options)
    data = DataLoader(TensorDataset(torch.arange(1.0, 5.0, dtype=torch.float64)))
    trainer.fit(Population(), data, **more)
    trainer.save_checkpoint(directory / f"{epochs}.ckpt")
    return trainer


def two(directory: str, epochs: int, resume: str | None = None) -> tuple[int, ...]:
    trainer = fit(Path(directory), epochs, Independent(), ckpt_path=resume)
    module: Any = trainer.lightning_module
    return tuple(module.models.weights.shape)


def assert_same(one: Path, other: Path) -> None:
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], value, rtol=0, atol=1e-12, msg=name)
    states = zip(first["optimizer_states"], second["optimizer_states"], strict=True)
    assert [each["state"][0]["exp_avg"].shape for each in first["optimizer_states"]] == [(1,)]
    for state, other_state in states:
        for number, values in state["state"].items():
            for name, value in values.items():
                torch.testing.assert_close(other_state["state"][number][name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 3, 5, 6])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_blocks_are_even_and_follow_each_other(count: int, processes: int) -> None:
    blocks = [block(count, rank, processes) for rank in range(processes)]
    assert [place for each in blocks for place in each] == list(range(count))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_processes_train_their_own_and_resume_on_any_number(tmp_path: Path) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    fit(one, 2)
    fit(one, 4)
    assert in_two_processes(two, str(several), 2, count=3) == [(2, 3), (2, 3), (1, 3)]
    assert_same(one / "2.ckpt", several / "2.ckpt")
    assert in_two_processes(two, str(several), 4, str(several / "2.ckpt")) == [(3, 3), (2, 3)]
    assert_same(one / "4.ckpt", several / "4.ckpt")
    fit(several, 4, ckpt_path=several / "2.ckpt")
    assert_same(one / "4.ckpt", several / "4.ckpt")


class Waits(Callback):
    """Signals that training has started, and prolongs each step."""

    def __init__(self, directory: str, fails: int | None = None) -> None:
        self.directory = directory
        self.fails = fails

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        Path(self.directory, str(trainer.global_rank)).touch()
        if trainer.global_rank == self.fails:
            raise ValueError("a cause of its own")
        time.sleep(0.05)
        torch.distributed.barrier()


def waits(directory: str, patience: float, fails: int | None = None) -> str:
    try:
        fit(Path(directory), 10000, Independent(patience), Waits(directory, fails))
    except (LostProcess, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "ended"


def results(processes: list[Any], but: int, timeout: float) -> list[str]:
    """Return what the processes other than `but` return or print, within a time limit."""
    end = time.monotonic() + timeout
    said = []
    for rank, process in enumerate(processes):
        if rank != but:
            output, _ = process.communicate(max(end - time.monotonic(), 0.1))
            assert process.returncode is not None, f"process {rank} still waits: {output}"
            with contextlib.suppress(EOFError):  # a process that ends while it waits returns nothing
                output += process.result.recv_bytes().decode(errors="replace")
            said.append(output)
    return said


def killed(start: TwoProcesses, directory: Path, victim: int, how: int, patience: float) -> list[str]:
    processes = start(waits, str(directory), patience, count=3)
    while not all((directory / str(rank)).exists() for rank in range(3)):
        time.sleep(0.05)
    processes[victim].send_signal(how)
    return results(processes, victim, 60)


@pytest.mark.nightly
@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_is_named_within_a_minute(
    victim: int, how: int, two_processes: TwoProcesses, tmp_path: Path
) -> None:
    """The strategy waits for its default time. Unlike a killed process, a stopped one keeps its connections open."""
    for said in killed(two_processes, tmp_path, victim, how, Independent().patience):
        assert f"process {victim} of 3 (" in said
        assert "resume from the last checkpoint with --resume" in said


def test_a_killed_process_is_named(two_processes: TwoProcesses, tmp_path: Path) -> None:
    for said in killed(two_processes, tmp_path, 1, signal.SIGKILL, 2.0):
        assert "process 1 of 3 (" in said


def test_the_others_hear_why_a_process_ended(two_processes: TwoProcesses, tmp_path: Path) -> None:
    first, second = two_processes(waits, str(tmp_path), 2.0, 1)
    assert "ValueError: a cause of its own" in results([second], 1, 60)[0]
    assert "process 1 of 2 (" in (said := results([first], 1, 60)[0])
    assert "ended with ValueError a cause of its own" in said


def test_what_does_not_fit_is_named() -> None:
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "sync_batchnorm": True, "logger": False}
    trainer = Trainer(strategy=Independent(), **options)
    with pytest.raises(ValueError, match="sync_batchnorm"):
        trainer.fit(Population(), DataLoader(TensorDataset(torch.ones(1, dtype=torch.float64))))
