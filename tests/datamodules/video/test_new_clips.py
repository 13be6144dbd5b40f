"""A user's own clips; unreadable ones are skipped."""

from pathlib import Path

import torch

from datamodules.loading.global_batches import Request
from datamodules.video.clip_pairs import ClipPairs
from datamodules.video.new_clips import NewClips
from tests.datamodules.video.folders import frames, write_frames, write_video


def test_clips_that_can_not_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", frames(5))
    write_video(tmp_path / "b.mp4", frames(7), rate=12)
    write_frames(tmp_path / "gap", frames(5))
    (tmp_path / "gap" / "00000001.png").unlink()
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 90)
    write_frames(tmp_path / "torn", frames(3))
    (tmp_path / "torn" / "00000002.png").write_bytes((tmp_path / "torn" / "00000002.png").read_bytes()[:40])
    clips = NewClips(str(tmp_path), 3, longest=4)
    assert len(clips.unreadable) == 3
    for reason, name in zip(clips.unreadable, ("broken.mp4", "gap/00000001.png", "torn/00000002.png"), strict=True):
        assert name in reason
    assert clips.sizes == [(4, 3, 16, 24), (1, 3, 16, 24), (4, 3, 16, 24), (3, 3, 16, 24)]
    part = clips[Request(torch.tensor([1, 3][1:]), 0, 1)]
    assert (part["name"], part["first"], part["rate"], part["noisy"].shape[1]) == (["b"], [4], [12.0], 3)
    assert clips[Request(torch.tensor([0]), 0, 1)]["rate"] == [0.0]  # folders of frames have no rate
    assert NewClips(str(tmp_path / "b.mp4"), 3, longest=4)[Request(torch.tensor([0]), 0, 1)]["name"] == ["b"]
    assert "clean" not in part


def test_a_folder_of_frames_is_one_clip(tmp_path: Path) -> None:
    write_frames(tmp_path / "mine", frames(3))
    data = ClipPairs(predict_dir=str(tmp_path / "mine"))
    data.setup("predict")
    assert data.predict_set[Request(torch.tensor([0]), 0, 1)]["name"] == ["mine"]
