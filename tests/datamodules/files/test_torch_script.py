"""Tensors read from TorchScript files equal those that PyTorch reads, and no code in the file is run."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.files.torch_script import read_torch_script
from tests.datamodules.files.hostile_files import SAVED, Calls, deflated, pth


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2, 3))
        self.register_buffer("mean", torch.rand(3).flip(0)[:2])
        self.size = [3, 4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def scripted(model: nn.Module) -> bytes:
    torch.jit.save(torch.jit.script(model), stream := io.BytesIO())
    return stream.getvalue()


def with_pickle(content: bytes, replaced: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for member in old.infolist():
            new.writestr(member, replaced if member.filename.endswith("/data.pkl") else old.read(member))
    return stream.getvalue()


def test_tensors_are_those_that_pytorch_reads(tmp_path: Path) -> None:
    model = nn.Sequential(Inner(), nn.Sequential(Inner(), nn.ReLU()), Inner())
    (path := tmp_path / "model.pt").write_bytes(scripted(model))
    found = read_torch_script(path)
    own = [tensors for tensors in found if tensors]
    for tensors, name in zip(own, ("0", "1.0", "2"), strict=True):
        assert tensors.keys() == {"weight", "mean"}
        assert all(torch.equal(value, model.state_dict()[f"{name}.{key}"]) for key, value in tensors.items())


def test_weights_of_another_kind_are_left_to_their_reader(tmp_path: Path) -> None:
    for content in (SAVED, b"", b"text", pth([1])):
        (path := tmp_path / "model.pt").write_bytes(content)
        assert read_torch_script(path) is None


@pytest.mark.parametrize("name", ["calls", "list", "cut", "compressed", "cycle", "numbered"])
def test_what_is_hostile_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = scripted(Inner())
    cycle = b"\x80\x02c__torch__\nM\nq\x00)\x81q\x01}q\x02U\x01aq\x03h\x01sb."
    contents: dict[str, Any] = {
        "calls": with_pickle(whole, pickle.dumps(Calls("ran"), 2)),
        "list": with_pickle(whole, pickle.dumps([1], 2)),
        "cut": with_pickle(whole, b"\x80\x02"),
        "cycle": with_pickle(whole, cycle),
        "numbered": with_pickle(whole, b"\x80\x03]r" + (1 << 28).to_bytes(4, "little") + b"."),
        "compressed": deflated(whole),
    }
    (path := tmp_path / "model.pt").write_bytes(contents[name])
    with pytest.raises(ValueError, match=r"model\.pt is damaged or contains more than TorchScript modules"):
        read_torch_script(path)
    assert not (tmp_path / "ran").exists()
