import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.loading import Loading
from datamodules.prompts.captioned_clips import CaptionedClips
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.folder_sets import CaptionedFolder
from tests.datamodules.image_folders import photograph, save
from tests.datamodules.video.folders import frames, write_frames, write_video


def captioned_clips(root: Path, num_frames: int = 5, count: int = 2, **options: Any) -> CaptionedClips:
    """Write folders of 9 frames of 20 x 40 pixels, with a caption each; frame t of a clip is a ramp plus 2 t."""
    for number in range(count):
        write_frames(root / f"clip.{number}", frames(9, 20, 40, seed=number))
        (root / f"clip.{number}.txt").write_text(["a cat", "dog"][number % 2])
    return CaptionedClips(str(root), num_frames, (16, 32), **options)


def test_clips_are_cut_in_the_middle_and_in_training_anywhere(tmp_path: Path) -> None:
    """The frames of a clip differ by 2, whatever the crop, so its first pixel says which frame is first."""
    source = captioned_clips(tmp_path, frame_stride=2, num_frames=3).training().source
    whole = torch.from_numpy(frames(9, 20, 40, seed=1))
    middle = source.fetch(torch.tensor([1]), None)
    assert middle.shape == (1, 3, 3, 16, 32)
    assert middle.dtype == torch.uint8
    assert middle[0].diff(dim=0).unique().tolist() == [4]
    place = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.99]])
    first, last = source.fetch(torch.tensor([1, 1]), place)
    assert (middle[0] - first).unique().tolist() == [4]  # of 9 frames, 5 are read from the third on
    assert (last - first).unique().tolist() == [8]
    # A crop of the same aspect ratio is the whole frame.
    assert abs(first.float().mean() - whole[:5:2].float().mean()) < 1


def test_a_batch_has_clips_in_the_unit_interval_with_captions_and_one_flip_for_all_frames(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 8, "loading": Loading(num_workers=0, seed=3)}
    plain = CaptionedImages(captioned_clips(tmp_path, num_frames=9, count=8), **options)
    turned = CaptionedImages(plain.images, **options, augmentation=Augmentation(flip=True))
    batches = []
    for data in (plain, turned):
        data.setup("fit")
        batches.append(next(iter(data.train_dataloader())))
    own, flipped = (batch["image"] for batch in batches)
    assert own.shape == (8, 9, 3, 16, 32)
    assert own.dtype == torch.float32
    assert 0 <= own.min() < own.max() <= 1
    chosen = torch.tensor([not torch.equal(a, b) for a, b in zip(own, flipped, strict=True)])
    assert 0 < chosen.sum() < 8
    assert torch.equal(flipped, torch.where(chosen.view(-1, 1, 1, 1, 1), own.flip(-1), own))
    assert batches[0]["caption"] == [["a cat", "dog"][index % 2] for index in batches[0]["index"].tolist()]


def test_videos_and_folders_have_captions_in_a_table(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", frames(6, 32, 32))
    write_frames(tmp_path / "two", frames(6, 32, 32))
    lines = [{"file_name": "two", "text": "second"}, {"file_name": "one.mp4", "text": "first"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    read = CaptionedClips(str(tmp_path), 5, (16, 16)).training()
    assert read.captions == ["first", "second"]
    one, two = read.source.fetch(torch.tensor([0, 1]), None).float()
    assert (one - two).abs().mean() < 3  # the video is compressed
    assert CaptionedClips(str(tmp_path), 5, (16, 16), prompt="a {}").training().captions == ["a one", "a two"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 13}, r"clip\.0 has 9 frames, but num_frames 13 with frame_stride 1 needs 13: remove it, or"),
        ({"frame_stride": 3}, r"with frame_stride 3 needs 13"),
        ({"num_frames": 0}, r"num_frames must be at least 1, got 0"),
        ({"image_size": (0, 16)}, r"image_size must be at least 1, got 0"),
    ],
)
def test_unsuitable_clips_are_rejected(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    captioned_clips(tmp_path)
    with pytest.raises(ValueError, match=message):
        CaptionedClips(str(tmp_path), **{"num_frames": 5, **options}).training()  # type: ignore[arg-type]


def test_damaged_clips_missing_captions_and_a_single_clip_are_rejected(tmp_path: Path) -> None:
    captioned_clips(tmp_path)
    with pytest.raises(ValueError, match=r"clip\.0 is one clip; give the folder that contains the clips, "):
        CaptionedClips(str(tmp_path / "clip.0"), 5).training()
    (tmp_path / "clip.1.txt").unlink()
    with pytest.raises(ValueError, match=r"clip\.1 has no caption \(1 of 2 files\); expected it in .*clip\.1\.txt"):
        CaptionedClips(str(tmp_path), 5).training()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"broken\.mp4 cannot be read as a video .*; replace or remove it"):
        CaptionedClips(str(tmp_path), 5).training()


def test_clips_and_images_are_told_apart(tmp_path: Path) -> None:
    save(tmp_path / "images" / "0.png", photograph(16, 16, 0))
    images = CaptionedFolder(str(tmp_path / "images"), image_size=16)
    clips = CaptionedImages(captioned_clips(tmp_path / "clips"))
    clips.check_frames(4, "Wan")
    clips.check_sizes(16)
    with pytest.raises(ValueError, match=r"data.images.num_frames must be a multiple of 8 plus 1 for Other, got 5"):
        clips.check_frames(8, "Other")
    with pytest.raises(ValueError, match=r"data.images has clips, but Flux needs images"):
        clips.check_frames(None, "Flux")
    with pytest.raises(ValueError, match=r"data.images has images, but Wan needs clips: use datamodules\.prompts\.cap"):
        CaptionedImages(images).check_frames(4, "Wan")
    with pytest.raises(ValueError, match=r"data.prior has images, but Wan needs clips"):
        CaptionedImages(clips.images, prior=images).check_frames(4, "Wan")
    with pytest.raises(ValueError, match=r"images of 16 x 32 pixels, but .* multiples of 64: change data.images.image"):
        clips.check_sizes(64)


def test_the_frames_of_a_folder_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    from datamodules.classification.cached_features import source_fingerprint

    source = captioned_clips(tmp_path, num_frames=1).training().source
    before = source_fingerprint(source)
    assert source_fingerprint(source) == before
    np.save(tmp_path / "clip.0" / "other.npy", np.zeros(3))
    assert source_fingerprint(source) != before
