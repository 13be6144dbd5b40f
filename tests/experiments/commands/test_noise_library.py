"""The subcommand that extracts noise sequences from videos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.video.noise_library import NoiseLibrary
from tests.datamodules.video.folders import write_frames
from train import main


def write_plain(folder: Path, count: int = 4, deviation: float = 3) -> None:
    random = np.random.default_rng(0)
    write_frames(folder, random.normal(120, deviation, (count, 20, 27, 3)).round().clip(0, 255).astype(np.uint8))


def test_a_library_is_written_with_its_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plain(tmp_path / "videos" / "plain")
    write_plain(tmp_path / "videos" / "wild", deviation=30)
    library = tmp_path / "library"
    assert main(["noise_library", str(tmp_path / "videos"), str(library), "--size", "8", "--frames", "2"]) == 0
    said = capsys.readouterr().out
    assert "plain: 4 frames of 20 x 27: 12 sequences" in said
    assert "wild: 4 frames of 20 x 27: 0 sequences" in said
    assert len([path for path in library.iterdir() if path.is_dir()]) == 12
    assert Image.open(library / "contact_sheet.png").width > 100  # large enough for a small frame
    NoiseLibrary(str(library)).check((2, 3, 8, 8), "data.noise")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "40"], "no window of 40 x 40 pixels shows only noise"),
        (["--frames", "5"], "plain has 4 frames, fewer than the 5 of a sequence"),
    ],
)
def test_what_gives_no_library_is_said(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plain(tmp_path / "videos" / "plain")
    assert main(["noise_library", str(tmp_path / "videos"), str(tmp_path / "library"), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_library_that_is_there_is_not_added_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plain(tmp_path / "videos" / "plain")
    assert main(["noise_library", str(tmp_path / "videos"), str(tmp_path / "videos")]) == 2
    assert "exists already, and is never overwritten: remove it, or choose another folder" in capsys.readouterr().err
