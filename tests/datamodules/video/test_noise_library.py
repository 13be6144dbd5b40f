"""Noise sequences drawn from a library, and rejected libraries."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.corruptions.clip_degradation import Chain, ResizeToEnd
from datamodules.video.clip_pairs import ClipPairs
from datamodules.video.clips import WindowSampling
from datamodules.video.moving_photographs import MovingPhotographs
from datamodules.video.noise_library import NoiseLibrary
from tests.datamodules.video.folders import write_frames

SEQUENCES = [np.random.default_rng(seed).integers(0, 200, (4, 12, 12, 3)).astype(np.uint8) for seed in range(3)]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for number, sequence in enumerate(SEQUENCES):
        write_frames(tmp_path / "noise" / f"a_{number}", sequence)
    return tmp_path / "noise"


def test_each_sequence_is_drawn_and_cut(library: Path) -> None:
    clip = np.full((2, 3, 12, 8), 60, dtype=np.uint8)
    source = NoiseLibrary(str(library))
    source.check(clip.shape, "data.noise")
    drawn = [source.draw(clip, np.random.default_rng(seed)) for seed in range(40)]
    places = set()
    for noise in drawn:
        [place] = [
            (number, first, left)
            for number, sequence in enumerate(SEQUENCES)
            for first in range(3)
            for left in range(5)
            if np.array_equal(sequence[first : first + 2, :, left : left + 8].transpose(0, 3, 1, 2), noise)
        ]
        places.add(place)
    assert [len({place[axis] for place in places}) for axis in range(3)] == [3, 3, 5]
    matched = NoiseLibrary(str(library), match_mean=True).draw(clip, np.random.default_rng(0))
    np.testing.assert_allclose(matched.mean(axis=(0, 2, 3)), 60, atol=6)  # up to clipping


def test_short_sequences_are_looped_where_that_is_asked_for(library: Path) -> None:
    clip = np.zeros((9, 3, 12, 12), dtype=np.uint8)
    with pytest.raises(
        ValueError, match=r"data\.noise: sequence a_0 .* has 4 frames, fewer than the 9 of a clip; .*loop"
    ):
        NoiseLibrary(str(library)).check(clip.shape, "data.noise")
    source = NoiseLibrary(str(library), loop=True)
    source.check(clip.shape, "data.noise")
    noise = source.draw(clip, np.random.default_rng(0))
    assert noise.shape == clip.shape
    np.testing.assert_array_equal(noise[:4], noise[4:8])
    np.testing.assert_array_equal(noise[0], noise[8])


def test_libraries_that_do_not_fit_are_refused(library: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sequence a_0 .* has 12 x 12 pixels, less than the 16 x 12 of a degraded"):
        NoiseLibrary(str(library)).check((2, 3, 16, 12), "data.noise")
    (library / "a_1" / "00000002.png").unlink()
    with pytest.raises(ValueError, match=r"a_1/00000002\.png is missing"):
        NoiseLibrary(str(library)).check((2, 3, 8, 8), "data.noise")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match=r"the noise library: .*nothing has no clip"):
        NoiseLibrary(str(tmp_path / "nothing")).check((2, 3, 8, 8), "data.noise")


def test_a_library_is_checked_before_training(library: Path) -> None:
    data = ClipPairs(
        MovingPhotographs(2, colour=True),
        degradation=Chain([ResizeToEnd()], scale=2),
        noise=NoiseLibrary(str(library)),
        batch_size=2,
        windows=WindowSampling(num_frames=4, size=32),
    )
    with pytest.raises(ValueError, match=r"data\.noise: .* less than the 16 x 16"):
        data.setup("fit")
