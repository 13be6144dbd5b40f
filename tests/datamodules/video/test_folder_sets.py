"""Folders of frames and video files, and rejections that name the file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.files.image_files import UnreadableImage
from datamodules.video.folder_sets import REDS, FolderFrames, FrameFolders, VideoFrames, named_clips, numbered_frames
from tests.datamodules.video.folders import frames, write_frames, write_video


def test_frames_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    clip = frames(12)
    write_frames(tmp_path / "a", clip, first=3)
    (tmp_path / "a" / "notes.txt").write_text("of the camera")
    read = FolderFrames(tmp_path / "a")
    assert read.shape == (12, 3, 16, 24)
    np.testing.assert_array_equal(read.read(2, 3), clip[2:5].transpose(0, 3, 1, 2))
    (tmp_path / "b").mkdir()
    for number in (9, 10, 11):  # no leading zeros
        Image.fromarray(clip[number]).save(tmp_path / "b" / f"shot_{number}.png")
    assert [path.name for path in numbered_frames(tmp_path / "b")] == ["shot_9.png", "shot_10.png", "shot_11.png"]


def test_frames_that_are_missing_or_of_another_size_are_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", frames(5))
    Image.fromarray(frames(1, 16, 20)[0]).save(tmp_path / "a" / "00000003.png")
    with pytest.raises(UnreadableImage, match=r"00000003.png has 16 x 20 pixels, but the first frame .* 16 x 24"):
        FolderFrames(tmp_path / "a").read(0, 5)
    (tmp_path / "a" / "00000002.png").unlink()
    with pytest.raises(ValueError, match=r"a/00000002.png is missing between existing frames"):
        FolderFrames(tmp_path / "a")
    (tmp_path / "a" / "00000002.png").touch()
    (tmp_path / "a" / "2.png").touch()
    with pytest.raises(ValueError, match=r"00000002.png and 2.png have the same number"):
        FolderFrames(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no frame; expected 00000000.png"):
        FolderFrames(tmp_path / "empty")


def test_grey_frames_become_colours_and_not_the_other_way(tmp_path: Path) -> None:
    write_frames(tmp_path / "grey", frames(2, colour=False))
    write_frames(tmp_path / "colour", frames(2))
    assert FolderFrames(tmp_path / "grey").read(0, 2).shape == (2, 3, 16, 24)
    assert FolderFrames(tmp_path / "grey", 1).shape == (2, 1, 16, 24)
    with pytest.raises(UnreadableImage, match="is in colour, but the datasets are grey"):
        FolderFrames(tmp_path / "colour", 1)


def test_video_files_are_read_from_any_frame(tmp_path: Path) -> None:
    clip = frames(30)
    write_video(tmp_path / "a.mp4", clip)
    read = VideoFrames(tmp_path / "a.mp4")
    assert (read.shape, read.facts.rate) == ((30, 3, 16, 24), 10)
    for first in (0, 7, 26):
        np.testing.assert_allclose(
            read.read(first, 4).astype(int), clip[first : first + 4].transpose(0, 3, 1, 2), atol=6
        )
    assert VideoFrames(tmp_path / "a.mp4", 1).read(28, 9).shape == (2, 1, 16, 24)


def test_clips_are_found_with_their_degraded_ones(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_frames(tmp_path / "clean" / name, frames(4, 32, 48))
        write_frames(tmp_path / "small" / name, frames(4))
    clips = FrameFolders(str(tmp_path / "clean"), str(tmp_path / "small"), scale=2).clips("test")
    assert (clips.names, clips.scale) == (["a", "b"], 2)
    assert [clips.clean[1].shape, clips.noisy[1].shape] == [(4, 3, 32, 48), (4, 3, 16, 24)]  # type: ignore[index]
    assert FrameFolders(str(tmp_path / "clean"), names=["b"]).clips("training").names == ["b"]
    with pytest.raises(ValueError, match=r"b: the clean clip has .*sides 4 times as long|a: the clean clip has"):
        FrameFolders(str(tmp_path / "clean"), str(tmp_path / "small"), scale=4).clips("test")
    write_frames(tmp_path / "small" / "c", frames(4))
    with pytest.raises(ValueError, match="c has a noisy clip but no clean counterpart"):
        FrameFolders(str(tmp_path / "clean"), str(tmp_path / "small"), scale=2).clips("test")
    with pytest.raises(ValueError, match="set clean_dir, noisy_dir or both"):
        FrameFolders()


def test_a_folder_is_searched_for_clips_of_either_kind(tmp_path: Path) -> None:
    write_frames(tmp_path / "all" / "a", frames())
    write_video(tmp_path / "all" / "b.mp4", frames())
    assert list(named_clips(tmp_path / "all", "clean_dir")) == ["a", "b"]
    assert list(named_clips(tmp_path / "all" / "a", "clean_dir")) == ["a"]
    write_video(tmp_path / "all" / "a.mp4", frames())
    with pytest.raises(ValueError, match="several clips named a"):
        named_clips(tmp_path / "all", "clean_dir")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"clean_dir: .*none has no clip; expected folders of frames"):
        named_clips(tmp_path / "none", "clean_dir")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        named_clips(tmp_path / "nowhere", "clean_dir")


def test_reds_has_its_folders(tmp_path: Path) -> None:
    write_frames(tmp_path / "REDS" / "train_sharp" / "000", frames())
    write_frames(tmp_path / "REDS" / "val_sharp" / "001", frames())
    assert REDS(str(tmp_path)).clips("training").names == ["000"]
    assert REDS(str(tmp_path / "REDS")).clips("test").names == ["001"]
