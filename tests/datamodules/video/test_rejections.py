from pathlib import Path
from typing import Any

import pytest

from datamodules.corruptions.clip_degradation import Chain
from datamodules.video.clip_pairs import ClipPairs
from datamodules.video.clips import WindowSampling
from datamodules.video.moving_photographs import MovingPhotographs
from datamodules.video.new_clips import NewClips
from tests.datamodules.video.test_clip_pairs import HALVED, Numbered, batches
from tests.rejections import Row, rejections

NOTHING = Chain([], scale=1)


SMALL = WindowSampling(2, size=4)


def no_readable_clip(root: Path) -> object:
    (root / "a.mp4").write_bytes(b"nothing")
    return NewClips(str(root), 3, None)


def windows(sampling: WindowSampling, **options: Any) -> object:
    return batches(
        ClipPairs(**{"training": Numbered(), "degradation": HALVED, "batch_size": 3, **options}, windows=sampling)
    )


# fmt: off
REJECTED: list[Row] = [
    ("batches num_frames 1", lambda _: windows(WindowSampling(num_frames=6)), ValueError,
     "a has 5 frames, fewer than data.windows.num_frames 6"),
    ("batches size 1", lambda _: windows(WindowSampling(2, size=10)), ValueError,
     "a has 8 x 8 pixels, less than data.windows.size 10"),
    ("batches size 2", lambda _: windows(WindowSampling(2, size=3)), ValueError,
     "windows.size must be a multiple of the scale 2, got 3"),
    ("batches size 3", lambda _: windows(SMALL, degradation=None), ValueError,
     "Numbered has only clean clips: set data.degrad"),
    ("batches num_frames 2", lambda _: windows(SMALL, training=Numbered(True)), ValueError,
     "has degraded clips already: do not set data.d"),
    ("batches validation", lambda _: windows(SMALL, degradation=NOTHING, validation=Numbered(True)), ValueError,
     "has scale 2, but the training data have scale 1"),
    ("batches test",
     lambda _: batches(ClipPairs(training=Numbered(), degradation=HALVED, batch_size=3, test=MovingPhotographs(2))),
     ValueError, "have different numbers of channels: Numbered 3, MovingPhotographs 1"),
    ("no readable clip", no_readable_clip, ValueError, r"no clip can be read: .*a\.mp4 cannot be read as a video"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
