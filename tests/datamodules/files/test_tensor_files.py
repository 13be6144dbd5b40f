"""Tensors are read from files; damaged, foreign or malicious files are rejected in one sentence with their name."""

import contextlib
import os
import tracemalloc
from pathlib import Path

import pytest
import torch

from datamodules.files.limits import sentence
from datamodules.files.tensor_files import Ignored, read_pickled_module, read_tensors
from tests.datamodules.files.hostile_files import LEGACY, PTH, SAFE, SAFETENSORS, SAVED, STATE

HOSTILE = [*((".safetensors", name) for name in SAFETENSORS), *((".pth", name) for name in PTH)]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".safetensors", SAFE), (".pth", SAVED), (".pt", LEGACY)],
    ids=["safetensors", "zip", "legacy"],  # file bytes cannot identify the state, because they differ between processes
)
def test_tensors_are_read(suffix: str, content: bytes, tmp_path: Path) -> None:
    (path := tmp_path / f"weights{suffix}").write_bytes(content)
    found = read_tensors(path)
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


@pytest.mark.parametrize(("suffix", "name"), HOSTILE)
def test_anything_else_is_one_sentence(suffix: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / f"weights{suffix}").write_bytes((SAFETENSORS if suffix == ".safetensors" else PTH)[name])
    with pytest.raises(ValueError, match=rf"weights{suffix} is not a readable weights file") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", PTH)
def test_no_code_runs_where_objects_are_ignored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / "weights.pth").write_bytes(PTH[name])
    with contextlib.suppress(ValueError):
        read_tensors(path, ignore_objects=True)
    with contextlib.suppress(ValueError):
        read_pickled_module(path)
    assert not (tmp_path / "ran").exists()


def test_objects_are_ignored_only_where_that_is_asked_for(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "folder": tmp_path}, tmp_path / "weights.pth")
    found = read_tensors(tmp_path / "weights.pth", ignore_objects=True)
    assert torch.equal(found["weight"], torch.ones(2))
    assert isinstance(found["folder"], Ignored)
    with pytest.raises(ValueError, match=r"weights\.pth is not a readable weights file"):
        read_tensors(tmp_path / "weights.pth")


def test_a_pickled_module_is_read_to_its_tensors(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.GELU()))
    torch.save(module, tmp_path / "module.pth")
    found = read_pickled_module(tmp_path / "module.pth")
    assert found.keys() == module.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())
    module[1].append(module[1])  # a module that contains itself
    torch.save(module, tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"module\.pth must contain a model of at most 10000 modules"):
        read_pickled_module(tmp_path / "module.pth")
    for names in (["x" * 1_000_000], [str(number) for number in range(2000)]):  # one long name, and many names
        module = torch.nn.Linear(1, 1)
        for name in names:
            module.add_module(name, module)
        torch.save(module, tmp_path / "module.pth")
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"whose names have at most 10000000 characters in all"):
            read_pickled_module(tmp_path / "module.pth")
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
        tracemalloc.stop()
    torch.save(STATE, tmp_path / "state.pth")
    assert read_pickled_module(tmp_path / "state.pth").keys() == STATE.keys()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth is not a regular file"):
        read_tensors(tmp_path / "weights.pth")
    assert sentence(ValueError("a\n  b")) == "a b"
    assert sentence(KeyError()) == "KeyError"
