"""Several processes train the nodes as one does; runs resume on other numbers of processes; a lost one is named."""

import os
import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from datamodules.loading import Loading
from datamodules.loading.node_shards import NodeShards
from lightning_modules.distributed.independent import Independent
from lightning_modules.optimization.monna import (
    ALittleIsEnough,
    FallOfEmpires,
    LabelFlip,
    Mimic,
    MoNNA,
    SelfCenteredClipping,
    SignFlip,
    TrimmedMean,
)
from lightning_modules.optimization.monna.byzantine import ByzantineAttack
from tests.command import start
from tests.conformance.runs import assert_alike, rows, run, state, tables, written
from tests.nightly import nightly_beyond
from tests.trainers import quiet
from tests.two_processes import in_two_processes

STRATEGY = "{class_path: lightning_modules.distributed.independent.Independent}"
LEARN = {"rule": TrimmedMean(), "exchange_gradients": True, "momentum": 0.0}
CASES: dict[str, tuple[type[ByzantineAttack], dict[str, Any]]] = {
    "ALIE": (ALittleIsEnough, {}),
    "label flip": (LabelFlip, {}),
    "Mimic": (partial(Mimic, learning_rounds=3), {}),  # type: ignore[dict-item]
    "clipping": (SignFlip, {"rule": SelfCenteredClipping(1.0)}),
    "LEARN": (FallOfEmpires, LEARN),
}


class WithBatchNorm(nn.Sequential):
    """A network with BatchNorm, whose statistics each node keeps separately."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10)]
        super().__init__(*layers)


def fit(case: str, path: str, processes: int) -> int:
    """Train seven nodes, five of them honest, and return how many of them this process hosts."""
    torch.manual_seed(0)
    attack, options = CASES[case]
    sgd: Any = partial(torch.optim.SGD, lr=0.5)
    made = MoNNA(WithBatchNorm(), 10, 7, 2, attack(), **{"momentum": 0.9, **options}, optimizer=sgd)
    shards = NodeShards(5, 1.0, batches_per_epoch=4)
    data = LabelledImages(Digits(300), 35, shards=shards, split=Split(validation_fraction=0.1), loading=Loading(seed=1))
    more: dict[str, Any] = {"devices": processes, "strategy": Independent()} if processes > 1 else {}
    trainer = quiet(max_epochs=2, precision="64-true", **more)
    trainer.fit(made, data)
    trainer.test(made, data, verbose=False)
    trainer.save_checkpoint(path)
    return len(made.network.own)


@pytest.mark.parametrize("case", nightly_beyond(["ALIE", "Mimic"], CASES))
def test_four_processes_equal_one(case: str, tmp_path: Path) -> None:
    """Compare the weights, momenta and statistics of all nodes, the state of the attack, and the curve."""
    one, four = tmp_path / "one.ckpt", tmp_path / "four.ckpt"
    fit(case, str(one), 1)
    assert in_two_processes(fit, case, str(four), 4, count=4) == [2, 1, 1, 1]
    theirs, ours = (torch.load(path, weights_only=True) for path in (one, four))
    for key in ("state_dict", "curve", "global_step"):
        assert_alike(theirs[key], ours[key], key, 1e-10)
    weights = ours["state_dict"]["network.weights"]
    assert len(weights) == 5
    assert not torch.equal(weights[0], weights[4])
    assert len(ours["curve"]) == 2


def test_more_processes_than_honest_nodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="5 models cannot be sharded over 6 ranks: use at most 5"):
        in_two_processes(fit, "clipping", str(tmp_path / "six.ckpt"), 6, count=6)


def settings(directory: Path) -> Path:
    return written("monna", directory, {"trainer.precision": "64-true"})


def on(processes: int, *arguments: str | Path) -> None:
    if processes == 1:
        run(*arguments, "--trainer.devices", "1", "--trainer.strategy", "auto")
    else:
        more = ("--trainer.devices", str(processes), "--trainer.strategy", STRATEGY)
        in_two_processes(run, *arguments, *more, count=processes)


@pytest.mark.nightly
def test_a_run_goes_on_on_another_number_of_processes(tmp_path: Path) -> None:
    config, whole, changed = settings(tmp_path), tmp_path / "whole", tmp_path / "changed"
    on(1, "fit", "--config", config, "--test_after_fit", "true", "--run_directory", whole, "--trainer.max_epochs", "3")
    on(3, "fit", "--config", config, "--run_directory", changed, "--trainer.max_epochs", "1")
    on(2, "fit", "--resume", changed, "--trainer.max_epochs", "2")
    on(1, "fit", "--resume", changed, "--trainer.max_epochs", "3", "--test_after_fit", "true")
    theirs, ours = state(whole), state(changed)
    for key in ("state_dict", "curve", "lr_schedulers", "global_step"):
        assert_alike(theirs[key], ours[key], key, 1e-10)
    assert {"accuracy.csv", "nodes.csv", "metrics.csv"} <= tables(whole).keys()
    for name, path in tables(whole).items():
        for row, its in zip(rows(path), rows(tables(changed)[name]), strict=True):
            assert row == pytest.approx(its, abs=1e-10, nan_ok=True), name
    on(2, "predict", "--resume", changed)
    assert (changed / "predictions.parquet").is_file()


def processes_of(parent: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


@pytest.mark.nightly
def test_a_killed_process_ends_the_run_with_its_name_and_the_run_goes_on(tmp_path: Path) -> None:
    """One of three processes that Lightning starts is killed; the others end within a minute."""
    config, directory = settings(tmp_path), tmp_path / "run"
    more = ("--trainer.devices", "3", "--trainer.strategy", STRATEGY, "--trainer.max_epochs", "4000")
    main = start("fit", "--config", config, "--run_directory", directory, *more)
    while not (directory / "checkpoints" / "last.ckpt").is_file():
        assert main.poll() is None, main.communicate()[0]
        time.sleep(0.1)
    children = processes_of(main.pid)
    assert len(children) >= 2
    victim, began = children[1], time.monotonic()
    os.kill(victim, signal.SIGKILL)
    output, _ = main.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert main.returncode == 1
    assert re.search(rf"error: process 2 of 3 \(\S+, PID {victim}\) sent no heartbeat for", output), output
    assert not any(Path(f"/proc/{child}/cmdline").exists() for child in children[:1])
    done = state(directory)["epoch"] + 2
    on(1, "fit", "--resume", directory, "--trainer.max_epochs", str(done + 1))
    assert state(directory)["epoch"] >= done
