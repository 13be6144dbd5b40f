"""A run that is killed between its last checkpoint and its end, and resumed, leaves the same files as a complete run.

A separate process trains and dies without clean-up, at a chosen file operation after the last checkpoint was saved.
`os._exit` leaves the files as `kill -9` does.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runs import run, state, written

FILE_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "shutil.copyfile")
KILLED = 77
STEP_NETWORK = {
    "class_path": "lightning_modules.diffusion.one_more_step.TimeFreeUNet",
    "init_args": {
        "network": {
            "class_path": "diffusers.UNet2DConditionModel",
            "init_args": {
                **{"sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1},
                **{"block_out_channels": [8, 8], "norm_num_groups": 4, "cross_attention_dim": 16},
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                "attention_head_dim": 4,
            },
        }
    },
}


def writes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event not in FILE_OPERATIONS:
        return False
    if event != "open":
        return True
    return isinstance(arguments[1], str) and any(letter in arguments[1] for letter in "wax+")


def train_and_die(directory: Path, config: Path, at: int | None) -> int:
    """Train in a child process that dies at file operation `at`; with None, return the number of operations."""
    counted = directory.with_suffix(".operations")
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == (0 if at is None else KILLED), status
        return int(counted.read_text()) if at is None else at
    seen = -1
    last = str(directory / "checkpoints" / "last.ckpt")
    epochs = [0]

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "os.rename" and str(arguments[1]) == last:
            epochs[0] += 1
            seen = 0 if epochs[0] == 2 else -1
        elif seen >= 0 and writes(event, arguments) and str(arguments[0]).startswith(str(directory)):
            seen += 1
            if seen == at:
                os._exit(KILLED)

    try:
        sys.addaudithook(look)
        run("fit", "--config", config, "--run_directory", directory)
        operations, seen = seen, -1
        counted.write_text(str(operations))
        os._exit(0)
    finally:
        os._exit(1)


def left(directory: Path) -> dict[str, bytes]:
    """Read all files of a run, except event files and checkpoints, because these contain the run directory's name."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    kept = [path for path in files if not {"tensorboard", "checkpoints"} & {*path.relative_to(directory).parts}]
    return {str(path.relative_to(directory)): path.read_bytes() for path in kept}


METHODS = (
    *("elr", "diffusion_finetuning", "one_more_step", "annotation_efficient", "batch_lr", "colide", "nm_sparsity"),
    *("nmtune", "ofq", "stable_normal"),
)
"""Methods that write files at the end of training, or whose demos have callbacks that do."""
SETTINGS = {"one_more_step": {"model.init_args.network": STEP_NETWORK}}


@pytest.mark.parametrize("name", ["elr", "diffusion_finetuning"])
def test_a_run_killed_at_its_end_is_whole_when_it_is_resumed(name: str, tmp_path: Path) -> None:
    config = written(name, tmp_path, SETTINGS.get(name, {}))
    operations = train_and_die(tmp_path / "whole", config, None)
    assert operations > 2
    for at in sorted({1, operations // 2, operations} if name == "elr" else {operations // 2}):
        killed_and_resumed(tmp_path, config, at)


@pytest.mark.nightly
@pytest.mark.parametrize("name", METHODS)
def test_each_point_of_the_end(name: str, tmp_path: Path) -> None:
    config = written(name, tmp_path, SETTINGS.get(name, {}))
    operations = train_and_die(tmp_path / "whole", config, None)
    for at in range(1, operations + 1):
        killed_and_resumed(tmp_path, config, at)


def killed_and_resumed(folder: Path, config: Path, at: int) -> None:
    killed = folder / f"killed_{at}"
    train_and_die(killed, config, at)
    run("fit", "--resume", killed)
    whole, resumed = left(folder / "whole"), left(killed)
    whole.pop("usage.csv", None), resumed.pop("usage.csv", None)  # times, only of processes that were not killed
    assert whole.keys() == resumed.keys(), at
    assert [name for name in whole if whole[name] != resumed[name]] == [], at


STOPPED = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "train/loss", "stopping_threshold": 1e9},
}


def test_a_run_that_was_stopped_early_trains_no_more(tmp_path: Path) -> None:
    """The run has saved the checkpoint of its last epoch, and another run may continue from it."""
    config = written("elr", tmp_path, {"trainer.max_epochs": 3})
    stop = f"--trainer.callbacks+={STOPPED}"
    run("fit", "--config", config, stop, "--run_directory", tmp_path / "run")
    run("fit", "--resume", tmp_path / "run")
    assert state(tmp_path / "run")["epoch"] == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    run("fit", "--config", config, "--ckpt_path", last, "--run_directory", tmp_path / "more")
    assert state(tmp_path / "more")["epoch"] == 2


def test_a_complete_run_keeps_its_tests(tmp_path: Path) -> None:
    config = written("elr", tmp_path)
    run("fit", "--config", config, "--run_directory", tmp_path / "run", "--test_after_fit", "true")
    before = left(tmp_path / "run")
    run("fit", "--resume", tmp_path / "run")
    assert left(tmp_path / "run") == before
