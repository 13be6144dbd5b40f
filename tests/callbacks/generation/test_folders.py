"""`train.py fid` compares two folders, or stored statistics, without a model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models import create_model

import train
from tests.callbacks.generation.test_image_lists import written

Captured = pytest.CaptureFixture[str]


def test_two_folders_by_a_timm_network_and_then_their_statistics(tmp_path: Path, capsys: Captured) -> None:
    folders = [written(tmp_path / name, [(32, 32)] * 6) for name in ("generated", "real")]
    (folders[1] / "5.png").unlink()
    torch.manual_seed(0)
    torch.save(create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "weights.pth")
    options = ["--timm", "resnet10t", "--weights", str(tmp_path / "weights.pth"), "--cache_dir", str(tmp_path / "kept")]
    assert train.main(["fid", *map(str, folders), *options]) == 0
    lines = dict(line.split(" ") for line in capsys.readouterr().out.splitlines() if ": " not in line)
    assert lines.keys() == {"fd_resnet10t_n5", "kd_resnet10t"}
    assert float(lines["fd_resnet10t_n5"]) > 0
    statistics = [next((tmp_path / "kept").glob(f"{folder.name}-*.npz")) for folder in folders]
    assert train.main(["fid", *map(str, statistics)]) == 0
    assert capsys.readouterr().out == f"fd_resnet10t_n5 {lines['fd_resnet10t_n5']}\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere", "nowhere"], "images: nowhere is not a folder"),
        (["a.npz", "b.npz"], "a.npz has 3 features and b.npz has 4"),
        (["a.npz", "a.npz", "--batch_size", "0"], "batch_size must be at least 1, got 0"),
        *(
            (["a.npz", "a.npz", "--device", name], f"--device must be one of cpu on this machine, got {name!r}")
            for name in ("cuda", "cuda:0", "x", "mps", "meta", "cuda:-1", "")
        ),
        (["a.npz", "nowhere", "--resize", "bilinear"], "resize must be one of legacy, clean, got 'bilinear'"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, arguments: list[str], error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for name, size in (("a", 3), ("b", 4)):
        np.savez(f"{name}.npz", mu=np.zeros(size), sigma=np.eye(size))
    monkeypatch.setattr("lightning_modules.networks.fid_inception.FIDInception.read", lambda self: None)
    monkeypatch.setattr("callbacks.generation.extraction.hash_of_module", lambda *_, **__: "")
    assert train.main(["fid", *arguments]) == 2
    assert error in capsys.readouterr().err
