"""Processes started by Lightning or torchrun, on one node and on two, give the same result as one process."""

import csv
import os
import socket
import sys
from pathlib import Path

import pytest
import torch

from tests.command import run, start
from tests.conformance.runs import run as here
from tests.two_processes import in_two_processes

# 1,170 training images in global batches of 101: 51 + 50 samples, and a last batch of 30 + 29.
EXACT = (
    *("--trainer.max_epochs", "3", "--trainer.precision", "64-true"),
    *("--data.batch_size", "101", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.accelerator", "cpu", "--test_after_fit", "true", "--checkpoint.also_test_best", "false"),
)
# Weight averaging copies the module, which must not refer to the handles of the launched processes.
AVERAGED = "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9, use_buffers: false}}"
SETTINGS = ("--config", "configs/elr/demo.yaml", *EXACT, "--trainer.callbacks+", AVERAGED)
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


def checkpoint(directory: Path) -> dict:
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def numbers(path: Path) -> list[dict[str, float | None]]:
    with path.open() as file:
        return [{k: float(v) if v else None for k, v in row.items() if k != "metric"} for row in csv.DictReader(file)]


def assert_same_run(one: Path, two: Path) -> None:
    first, second = checkpoint(one), checkpoint(two)
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for weights in ("state_dict", "current_model_state"):
        for name, value in first[weights].items():
            torch.testing.assert_close(second[weights][name], value, rtol=0, atol=1e-10, msg=name)
    torch.testing.assert_close(second.get("targets"), first.get("targets"), rtol=0, atol=1e-10)
    for table in ("metrics.csv", "test_metrics.csv", "early_learning.csv"):
        rows, others = numbers(one / table), numbers(two / table)
        assert len(rows) == len(others), table
        for row, other in zip(rows, others, strict=True):
            assert row == pytest.approx(other, abs=1e-6, nan_ok=True), table
    assert (one / "labels.csv").read_bytes() == (two / "labels.csv").read_bytes()


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one")
    here("fit", *SETTINGS, "--run_directory", directory)
    return directory


def test_two_processes_that_lightning_starts_equal_one(one_process: Path, tmp_path: Path) -> None:
    run("fit", *SETTINGS, *TWO, "--run_directory", tmp_path)
    assert_same_run(one_process, tmp_path)


def test_resuming_with_another_number_of_processes(one_process: Path, tmp_path: Path) -> None:
    shorter = ("--trainer.max_epochs", "2", "--test_after_fit", "false")
    in_two_processes(here, "fit", *SETTINGS, *TWO, "--run_directory", tmp_path, *shorter)
    single = ("--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.max_epochs", "3")
    here("fit", "--resume", tmp_path, *single, "--test_after_fit", "true")
    assert_same_run(one_process, tmp_path)


def on_its_own_node(*arguments: str | Path) -> None:
    """Run the command line as the only process of a node; environment variables state the node."""
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": os.environ["RANK"]}
    here(*arguments)


def test_two_nodes_equal_one_process(one_process: Path, tmp_path: Path) -> None:
    nodes = ("--trainer.devices", "1", "--trainer.num_nodes", "2", "--trainer.strategy", "ddp")
    in_two_processes(on_its_own_node, "fit", *SETTINGS, *nodes, "--run_directory", tmp_path)
    assert_same_run(one_process, tmp_path)


@pytest.mark.nightly
def test_two_nodes_that_torchrun_starts_equal_one_process(one_process: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = [
        start(
            *("fit", *SETTINGS, "--trainer.devices", "1", "--trainer.num_nodes", "2", "--trainer.strategy", "ddp"),
            *("--run_directory", tmp_path),
            launcher=(
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
                *("--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", port),
            ),
        )
        for rank in range(2)
    ]
    for node in nodes:
        output, _ = node.communicate(timeout=600)
        assert node.returncode == 0, output
    assert_same_run(one_process, tmp_path)
