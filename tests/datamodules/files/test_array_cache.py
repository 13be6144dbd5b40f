import copy
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import ResNetConfig

from datamodules.files.array_cache import cached_array, key_of, module_fingerprint
from lightning_modules.networks.resized import Resized


@settings(deadline=None, max_examples=30)
@given(row=st.integers(0, 15), column=st.integers(0, 63), change=st.sampled_from([1e-7, 1.0, -2.0]))
def test_a_fingerprint_sees_any_weight(row: int, column: int, change: float) -> None:
    one = nn.Sequential(nn.Linear(64, 16))
    other = copy.deepcopy(one)
    assert module_fingerprint(one) == module_fingerprint(other)
    with torch.no_grad():
        other[0].weight[row, column] += change
    assert (module_fingerprint(one) == module_fingerprint(other)) == torch.equal(one[0].weight, other[0].weight)


def test_a_fingerprint_sees_classes_attributes_and_buffers_and_not_the_mode() -> None:
    linear = nn.Sequential(nn.Linear(2, 2))
    assert module_fingerprint(Resized(linear, 8)) != module_fingerprint(Resized(linear, 9))
    assert module_fingerprint(nn.Sequential(nn.ReLU())) != module_fingerprint(nn.Sequential(nn.GELU()))
    norm = nn.BatchNorm1d(3)
    before = module_fingerprint(norm)
    assert module_fingerprint(norm.eval()) == before
    norm(torch.randn(4, 3))
    assert module_fingerprint(norm) == before
    norm.train()(torch.randn(4, 3))
    assert module_fingerprint(norm) != before


class Attributes(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"options": {"scale": 1.0}}, {"options": {"scale": 2.0}}),
        ({"options": {"mean": [0.5, (1, 2)]}}, {"options": {"mean": [0.5, (1, 3)]}}),
        ({"_out_features": ["stage3"]}, {"_out_features": ["stage4"]}),
        ({"kept": {"a", "b"}}, {"kept": {"a", "c"}}),
        ({"act": nn.functional.relu}, {"act": nn.functional.gelu}),
        ({"computes_in": torch.float32}, {"computes_in": torch.float16}),
        ({"config": ResNetConfig(layer_type="basic")}, {"config": ResNetConfig(layer_type="bottleneck")}),
    ],
)
def test_a_fingerprint_sees_collections_private_attributes_and_configurations(one: Any, other: Any) -> None:
    first, again = module_fingerprint(Attributes(**one)), module_fingerprint(Attributes(**copy.deepcopy(one)))
    assert first == again
    assert first != module_fingerprint(Attributes(**other))


def test_a_fingerprint_does_not_depend_on_the_process() -> None:
    """Sets are ordered otherwise in each, and objects lie elsewhere."""
    assert list({0, 8}) != list({8, 0})
    assert module_fingerprint(Attributes(kept={0, 8})) == module_fingerprint(Attributes(kept={8, 0}))
    assert module_fingerprint(Attributes(thing=object())) == module_fingerprint(Attributes(thing=object()))


NUMBERS, ROWS = 8, 3


fork = multiprocessing.get_context("fork")


def part(number: int) -> np.ndarray:
    return np.arange(number * ROWS * 2, (number + 1) * ROWS * 2, dtype=np.float32).reshape(ROWS, 2)


def computed(folder: Path, rank: int = 0, world: int = 1, seconds: float = 0.0, fails: bool = False) -> np.ndarray:
    def compute(numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number in numbers:
            time.sleep(seconds)
            if fails:
                raise OSError("no such image")
            with (folder / "journal").open("a") as journal:
                journal.write(f"{number}\n")
            yield number, part(number)

    token = "of this run" if world > 1 else None
    return cached_array(folder / "cache", "x", {"a": 1}, NUMBERS, compute, rank, world, token)


def journal(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "journal").read_text().split()] if (folder / "journal").exists() else []


WHOLE = np.arange(NUMBERS * ROWS * 2, dtype=np.float32).reshape(-1, 2)


def test_processes_share_the_parts_and_compute_each_once(tmp_path: Path) -> None:
    others = [fork.Process(target=computed, args=(tmp_path, rank, 3)) for rank in (1, 2)]
    for other in others:
        other.start()
    assert np.array_equal(computed(tmp_path, 0, 3), WHOLE)
    for other in others:
        other.join(600)
        assert other.exitcode == 0
    assert sorted(journal(tmp_path)) == list(range(NUMBERS))


def test_what_was_killed_leaves_no_torn_entry_and_its_parts_are_kept(tmp_path: Path) -> None:
    process = fork.Process(target=computed, args=(tmp_path, 0, 1, 0.1))
    process.start()
    while len(journal(tmp_path)) < 3:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join()
    entry = tmp_path / "cache" / f"x-{key_of({'a': 1})}"
    assert not entry.exists()
    before = journal(tmp_path)
    assert np.array_equal(computed(tmp_path), WHOLE)
    after = journal(tmp_path)[len(before) :]
    assert len(after) < NUMBERS
    assert not set(after) & set(before[:-1])  # the last one may have been killed before it was written


def test_two_runs_at_once_compute_an_entry_once(tmp_path: Path) -> None:
    processes = [fork.Process(target=computed, args=(tmp_path, 0, 1, 0.02)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    assert sorted(journal(tmp_path)) == list(range(NUMBERS))
    assert np.array_equal(computed(tmp_path), WHOLE)


def test_the_failure_of_one_process_is_told_to_the_others(tmp_path: Path) -> None:
    other = fork.Process(target=computed, args=(tmp_path, 1, 2, 0.0, True))
    other.start()
    with pytest.raises(RuntimeError, match="process 1: OSError: no such image"):
        computed(tmp_path, 0, 2)
    other.join(600)
    assert not list((tmp_path / "cache").glob("x-*/manifest.json"))
    assert np.array_equal(computed(tmp_path), WHOLE)  # the failure is not held against the next run


@pytest.mark.parametrize("when", ["before the token", "while parts are joined"])
def test_any_failure_of_process_0_is_told_to_the_others(when: str, tmp_path: Path) -> None:
    entry = tmp_path / "cache" / f"x-{key_of({'a': 1})}"
    if when == "before the token":
        entry.parent.mkdir()
        entry.with_name(f"{entry.name}.partial").touch()  # is no folder
    else:
        unlike = entry.with_name(f"{entry.name}.partial")
        unlike.mkdir(parents=True)
        np.save(unlike / "part-000003.npy", np.zeros((ROWS, 5), dtype=np.float32))
    told = multiprocessing.SimpleQueue()

    def wait() -> None:
        try:
            computed(tmp_path, 1, 2)
        except RuntimeError as error:
            told.put(str(error))

    other = fork.Process(target=wait, daemon=True)
    other.start()
    with pytest.raises((FileExistsError, ValueError)) as failure:
        computed(tmp_path, 0, 2)
    other.join(600)
    assert other.exitcode == 0
    name = type(failure.value).__name__
    assert told.get() == f"{entry.name} could not be computed: process 0: {name}: {failure.value}"


def test_a_damaged_entry_is_refused_by_name(tmp_path: Path) -> None:
    computed(tmp_path)
    (array,) = (tmp_path / "cache").glob("x-*/array.npy")
    array.write_bytes(array.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{array.parent} is damaged"):
        computed(tmp_path)
    (array.parent / "manifest.json").write_text(json.dumps({"a": 2}))
    np.save(array, WHOLE)
    with pytest.raises(ValueError, match="holds another array than its name says"):
        computed(tmp_path)
