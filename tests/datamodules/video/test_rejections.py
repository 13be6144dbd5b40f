from pathlib import Path
from typing import Any

import pytest

from datamodules.corruptions.clip_degradation import Chain
from datamodules.video.clip_pairs import ClipPairs
from datamodules.video.moving_photographs import MovingPhotographs
from datamodules.video.new_clips import NewClips
from tests.datamodules.video.test_clip_pairs import HALVED, Numbered, batches
from tests.rejections import Row, rejections

NOTHING = Chain([], scale=1)


SMALL = {"num_frames": 2, "patch_size": 4}


def no_readable_clip(root: Path) -> object:
    (root / "a.mp4").write_bytes(b"nothing")
    return NewClips(str(root), 3, None)


# fmt: off
REJECTED: list[Row] = [
    ("batches num_frames 1",
     lambda _: batches(ClipPairs(training=Numbered(), degradation=HALVED, batch_size=3, num_frames=6)), ValueError,
     "a has 5 frames, fewer than data.num_frames 6"),
    ("batches patch_size 1",
     lambda _: batches(ClipPairs(training=Numbered(), degradation=HALVED, batch_size=3, num_frames=2, patch_size=10)),
     ValueError, "a has 8 x 8 pixels, less than data.patch_size 10"),
    ("batches patch_size 2",
     lambda _: batches(ClipPairs(training=Numbered(), degradation=HALVED, batch_size=3, num_frames=2, patch_size=3)),
     ValueError, "patch_size must be a multiple of the scale 2, got 3"),
    ("batches patch_size 3",
     lambda _: batches(ClipPairs(training=Numbered(), degradation=None, batch_size=3, num_frames=2, patch_size=4)),
     ValueError, "Numbered has only clean clips: set data.degrad"),
    ("batches num_frames 2",
     lambda _: batches(ClipPairs(training=Numbered(True), degradation=HALVED, batch_size=3, patch_size=4,
     num_frames=2)), ValueError, "has degraded clips already: do not set data.d"),
    ("batches validation",
     lambda _: batches(ClipPairs(**{"training": Numbered(), "degradation": NOTHING, "batch_size": 3,
     "validation": Numbered(True), **SMALL})), ValueError, "has scale 2, but the training data have scale 1"),
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
