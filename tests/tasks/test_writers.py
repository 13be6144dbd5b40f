"""A folder of images in, a folder of restored images out, by the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import camera

import train
from tests.command import ROOT
from tests.two_processes import in_two_processes

SMALL = ("--model.network.features", "4", "--model.network.depth", "2", "--ckpt_path", "none")


def predict(folder: Path, out: Path, *arguments: str) -> int:
    config = ROOT / "configs" / "supervised_restoration" / "demo.yaml"
    quietly = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
    line = ("predict", "--config", config, "--data.predict_dir", folder, "--run_directory", out, *SMALL, *quietly)
    return train.main([str(argument) for argument in (*line, *arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of two sizes, one of them in a subfolder, and a file that is none."""
    given = tmp_path / "given"
    (given / "below").mkdir(parents=True)
    for name, side in {"a.png": 24, "b.bmp": 32, "below/c.tif": 24}.items():
        Image.fromarray(camera()[200 : 200 + side, 100:132]).save(given / name)
    (given / "damaged.png").write_bytes(b"no image")
    return given


def test_one_damaged_file_is_named_at_the_end_and_the_others_are_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(folder, out) == 1
    assert "all other images are written, but not 1" in (said := capsys.readouterr().err)
    assert "damaged.png cannot be read as an image" in said
    written = sorted((out / "restored").rglob("*.png"))
    assert [path.relative_to(out / "restored").as_posix() for path in written] == ["a.png", "b.png", "below/c.png"]
    for path in written:
        with Image.open(path) as image, Image.open(next(folder.glob(f"**/{path.stem}.*"))) as given:
            assert (image.mode, image.size) == (given.mode, given.size)
            assert np.asarray(image).std() > 0
    before = {path: path.stat().st_mtime_ns for path in written}
    written[0].unlink()
    (folder / "damaged.png").unlink()
    assert predict(folder, out) == 0
    after = {path: path.stat().st_mtime_ns for path in written}
    assert [path.stem for path in written if before[path] != after[path]] == ["a"]


@pytest.mark.nightly
def test_two_processes_share_a_folder(folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    options: Any = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert predict(folder, one) == 1
    assert in_two_processes(predict, folder, two, *options) == [1, 1]
    for path in sorted((one / "restored").rglob("*.png")):
        assert (two / path.relative_to(one)).read_bytes() == path.read_bytes()
