"""Tensors come out of files, and what is damaged, foreign or hostile is one sentence that names the file."""

import contextlib
import os
from pathlib import Path

import pytest
import torch

from datamodules.files.limits import sentence
from datamodules.files.tensor_files import Ignored, read_tensors
from tests.datamodules.files.hostile_files import LEGACY, PTH, SAFE, SAFETENSORS, SAVED, STATE

HOSTILE = [*((".safetensors", name) for name in SAFETENSORS), *((".pth", name) for name in PTH)]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".safetensors", SAFE), (".pth", SAVED), (".pt", LEGACY)],
    ids=["safetensors", "zip", "legacy"],  # the bytes of a file are no name: they differ between processes
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
    assert not (tmp_path / "ran").exists()


def test_objects_are_ignored_only_where_that_is_asked_for(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "folder": tmp_path}, tmp_path / "weights.pth")
    found = read_tensors(tmp_path / "weights.pth", ignore_objects=True)
    assert torch.equal(found["weight"], torch.ones(2))
    assert isinstance(found["folder"], Ignored)
    with pytest.raises(ValueError, match=r"weights\.pth is not a readable weights file"):
        read_tensors(tmp_path / "weights.pth")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth is not a regular file"):
        read_tensors(tmp_path / "weights.pth")
    assert sentence(ValueError("a\n  b")) == "a b"
    assert sentence(KeyError()) == "KeyError"
