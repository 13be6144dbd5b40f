"""Two processes write the same files of callbacks and predictions as one, and print the same in `train.py fid`.

The shares are uneven; if a row allows it, a second run leaves the second process without any item.
"""

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import create_model

import train
from tests.callbacks.generation.test_image_lists import written as images_in
from tests.command import ROOT
from tests.conformance.runs import methods, run, written
from tests.distributed.callbacks import BASES, ELSEWHERE, ROWS, Watched
from tests.distributed.written_files import assert_same_files
from tests.two_processes import in_two_processes

TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp_find_unused_parameters_true")
Base = Callable[[str], Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Return a function that trains a base run on its first call, and then returns this run."""

    @cache
    def trained(name: str) -> Path:
        method, changes = BASES[name]
        directory = tmp_path_factory.mktemp(name)
        settings = written(method, directory, changes)
        run("fit", "--config", settings, "--run_directory", directory / "run", "--test_after_fit", "false")
        return directory

    return trained


def line(row: Watched, base: Path, settings: Mapping[str, Any], directory: Path) -> list[str]:
    """Return the command line of a row, without the number of processes."""
    method = BASES[row.base][0]
    begin = ["--config", base / f"{method}.yaml"] if row.command == "fit" else ["--resume", base / "run"]
    words: list[Any] = [row.command, *begin, "--run_directory", directory]
    if row.layer is not None:
        words += ["--config", f"configs/callbacks/{row.layer}.yaml"]
        if row.layer == "fid":
            words += ["--trainer.callbacks.cache_dir", directory / "cache"]
    for key, value in settings.items():
        words += [f"--{key}", value]
    return [str(word) for word in words]


def compared(row: Watched, base: Path, settings: Mapping[str, Any], tmp_path: Path, count: int = 2) -> Path:
    """Run a row with one process and with several, and compare the files; return the directory of the first run."""
    one, several = tmp_path / "one", tmp_path / "several"
    run(*line(row, base, settings, one))
    more = ("--trainer.devices", str(count), *TWO[2:])
    in_two_processes(run, *line(row, base, settings, several), *more, count=count)
    for pattern in row.files:
        assert list(one.glob(pattern)), pattern
    assert_same_files(one, several, row.accuracy, row.first_only)
    return one


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] * row.nightly) for name, row in ROWS.items()]
)
def test_uneven_shares_give_the_files_of_one_process(name: str, base: Base, tmp_path: Path) -> None:
    row = ROWS[name]
    compared(row, base(row.base), row.uneven, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if isinstance(row.empty, dict)])
def test_a_process_without_an_item_changes_nothing(name: str, base: Base, tmp_path: Path) -> None:
    row = ROWS[name]
    assert isinstance(row.empty, dict)
    compared(row, base(row.base), row.empty, tmp_path)


@pytest.mark.nightly
def test_collectives_take_tensors_of_the_device(base: Base, tmp_path: Path) -> None:
    """Run all rows one after the other, with two processes whose collectives reject the same tensors as NCCL."""
    pytest.importorskip("tests.conformance.collectives")
    from tests.conformance.on_device import on_device

    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "auto")
    single = ("--trainer.precision", "32-true")
    commands = []
    for name, row in ROWS.items():
        words = line(row, base(row.base), row.uneven, tmp_path / name)
        commands.append([*words, *two, *single, *(["--trainer.inference_mode", "false"] * (row.command == "test"))])
    on_device(*commands, ranks=2)


def test_every_callback_is_compared() -> None:
    """A callback is covered by a row, by the demo of a method's row, by every run, or elsewhere with a reason."""
    demos = [f"configs/{method.config}.yaml" for method in methods().values()]
    layers = [f"configs/callbacks/{row.layer}.yaml" for row in ROWS.values() if row.layer]
    said = "".join((ROOT / path).read_text() for path in ("configs/defaults.yaml", *demos, *layers)) + repr(ROWS)
    defined = {
        found
        for path in (ROOT / "callbacks").rglob("*.py")
        for found in re.findall(r"^class (\w+)\((?:Callback|FiniteLoss)\):", path.read_text(), re.MULTILINE)
    }
    assert len(defined) >= 25
    assert defined >= ELSEWHERE.keys()
    assert [name for name in defined - ELSEWHERE.keys() if not re.search(rf"\b{name}\b", said)] == []
    assert {path.stem for path in (ROOT / "configs/callbacks").glob("*.yaml")} == {Path(each).stem for each in layers}


def fid(directory: Path, *folders: Path) -> str:
    """Run `fid` on two folders with a small network and a cache in `directory`, and return the printed output."""
    options = ["--timm", "resnet10t", "--weights", directory.parent / "weights.pth", "--cache_dir", directory]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert train.main(["fid", *map(str, [*folders, *options])]) == 0
    return printed.getvalue()


def test_fid_of_folders_may_be_asked_for_by_two_processes_at_once(tmp_path: Path) -> None:
    """Two processes of a launcher, or two users, compute separately and fill the same cache with the same values."""
    torch.manual_seed(0)
    torch.save(create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "weights.pth")
    folders = [images_in(tmp_path / name, [(32, 32)] * 7) for name in ("generated", "real")]
    alone = fid(tmp_path / "one", *folders)
    both = in_two_processes(fid, tmp_path / "two", *folders)
    assert [said.replace("/two/", "/one/") for said in both] == [alone, alone]
    assert {path.name for path in (tmp_path / "one").rglob("*")} == {
        path.name for path in (tmp_path / "two").rglob("*")
    }
