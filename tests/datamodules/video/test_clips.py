import numpy as np
import pytest

from datamodules.video.clips import ArrayFrames, Clips


def frames(time: int = 3, side: int = 8) -> ArrayFrames:
    values = np.arange(time, dtype=np.uint8)[:, None, None, None]
    return ArrayFrames(np.broadcast_to(values, (time, 1, side, side)))


def test_clips_that_do_not_belong_together_are_refused_by_name() -> None:
    assert Clips(["a"], [frames()], [frames(side=4)], scale=2).stored[0].shape == (3, 1, 8, 8)
    noisy_alone = frames(side=4)
    assert Clips(["a"], None, [noisy_alone]).stored == [noisy_alone]
    for other in (frames(side=4, time=2), frames(side=3)):
        with pytest.raises(ValueError, match=r"b: the clean clip has the shape \[3, 1, 8, 8\].*2 times as long"):
            Clips(["a", "b"], [frames(), frames()], [frames(side=4), other], scale=2)
    with pytest.raises(ValueError, match="a dataset has no clips"):
        Clips([], [])
