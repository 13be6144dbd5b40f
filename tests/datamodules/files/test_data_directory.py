"""The files to predict: one file, several files, and a text file of paths, for every kind of data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.classification.digits import Digits
from datamodules.classification.folder_sets import NewImages
from datamodules.files.data_directory import given_files
from datamodules.files.image_files import images_at
from datamodules.loading.global_batches import Request
from datamodules.restoration.noisy_folder import NoisyFolder, RawFolder
from datamodules.segmentation.folder_sets import MaskFolders
from datamodules.speech.speech_pairs import RecordingFolder
from datamodules.video.new_clips import NewClips
from tests.datamodules.speech.folders import write
from tests.datamodules.video.folders import frames, write_frames, write_video


def save(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 12), 100, np.uint8)).save(path)
    return str(path)


def test_a_list_keeps_its_order_expands_folders_and_keeps_missing_files(tmp_path: Path) -> None:
    paths = [save(tmp_path / name) for name in ("b.png", "a.png", "sub/2.png", "sub/1.png")]
    given = [
        paths[0],
        str(tmp_path / "sub"),
        str(tmp_path / "gone.png"),
        paths[1],
        paths[0],
        f"{tmp_path}/sub/../a.png",
    ]
    names = ["b.png", "sub/1.png", "sub/2.png", "gone.png", "a.png"]
    assert images_at(given, "predict_dir") == (tmp_path, names)
    table = tmp_path / "list.txt"
    table.write_text("\ufeff" + "\n".join([*given, "", " "]), encoding="utf-8")
    assert images_at(str(table), "predict_dir") == (tmp_path, names)
    assert images_at([paths[2]], "predict_dir") == (tmp_path / "sub", ["2.png"])


def test_relative_paths_are_those_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "sub" / "1.png")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub" / "list.txt").write_text("sub/1.png\n")
    assert images_at("sub/list.txt", "predict_dir") == (tmp_path / "sub", ["1.png"])
    assert images_at("sub/1.png", "predict_dir") == (Path("sub"), ["1.png"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "predict_dir: the list is empty"), (b"\xff\xfe\x00", "is not a text file"), (None, "is not a text file")],
)
def test_a_table_without_paths_is_rejected(tmp_path: Path, content: bytes | None, reason: str) -> None:
    table = tmp_path / "list.txt"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        given_files(str(table), "predict_dir", lambda folder: [])


def test_every_reader_takes_a_list_and_reports_its_missing_members(tmp_path: Path) -> None:
    one, two, gone = save(tmp_path / "a" / "1.png"), save(tmp_path / "b" / "2.png"), str(tmp_path / "gone.png")
    classified = NewImages([two, gone, one], Digits())
    assert classified.names == ["b/2.png", "gone.png", "a/1.png"]
    assert classified.fetch(torch.tensor([0, 1, 2]), None).amax(dim=(1, 2, 3)).tolist() == [100, 0, 100]
    assert "gone.png cannot be read as an image" in classified.unreadable[1]  # type: ignore[index]
    segmented = MaskFolders(str(tmp_path), 16).new_images([two, gone, one])
    segmented.whole(torch.arange(3), {})
    assert (segmented.names, list(segmented.unreadable or {})) == (["b/2", "gone", "a/1"], [1])
    restored = NoisyFolder([two, gone, one])
    assert restored.names == ["b/2", "a/1"]
    assert "gone.png cannot be read" in restored.unreadable[0]

    bayer = {"bayer": np.full((4, 4), 600, np.uint16), "black": 512, "white": 16383, "pattern": "RGGB"}
    np.savez(tmp_path / "raw.npz", **bayer)  # type: ignore[arg-type]
    raw = RawFolder([str(tmp_path / "raw.npz"), str(tmp_path / "gone.npz")])
    assert (raw.names, "gone.npz" in raw.unreadable[0]) == (["raw"], True)

    write(tmp_path / "a" / "1.wav", 200)
    write(tmp_path / "b" / "2.wav", 200)
    heard = RecordingFolder(
        [str(tmp_path / f"{name}.wav") for name in ("b/2", "gone", "a/1")], 16_000, 10, False, False
    )
    assert (heard.files, len(heard.unreadable)) == (["b/2.wav", "a/1.wav"], 1)
    assert "gone.wav" in heard.unreadable[0]

    write_video(tmp_path / "c" / "film.mp4", frames(3), rate=12)
    write_frames(tmp_path / "d" / "shot", frames(3))
    clips = NewClips([str(tmp_path / name) for name in ("d/shot", "gone.mp4", "c/film.mp4")], 3, longest=None)
    assert [clips[Request(torch.tensor([row]), 0, 1)]["name"] for row in (0, 1)] == [["shot"], ["film"]]
    assert "gone.mp4" in clips.unreadable[0]
