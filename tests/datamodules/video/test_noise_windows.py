"""The test that selects windows for noise sequences: each threshold, the image edges, and the authors' loop."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.video.clips import ArrayFrames
from datamodules.video.folder_sets import FolderFrames
from datamodules.video.noise_windows import WindowTest, grey_levels, noise_windows, num_windows, write_windows

SIZE = 8


def scene() -> np.ndarray:
    """Draw a clip with four windows per row: constant apart from a little noise, textured, dark, and flickering."""
    random = np.random.default_rng(0)
    clip = np.full((6, 1, 2 * SIZE, 4 * SIZE + 1), 100.0)
    clip += random.normal(0, 3, clip.shape)
    clip[..., SIZE : 2 * SIZE] += 40 * (np.indices(clip.shape[2:]).sum(axis=0) % 2)[:, SIZE : 2 * SIZE]
    clip[..., 2 * SIZE : 3 * SIZE] = 0
    clip[::2, :, :, 3 * SIZE : 4 * SIZE] += 25
    return clip.round().clip(0, 255).astype(np.uint8)


def by_loops(clip: np.ndarray, test: WindowTest) -> list[tuple[int, int]]:
    found = []
    for top in range(0, clip.shape[2] - test.size, test.size):
        for left in range(0, clip.shape[3] - test.size, test.size):
            windows = [grey_levels(frame)[top : top + test.size, left : left + test.size] for frame in clip]
            variances, means = [np.var(window) for window in windows], [np.mean(window) for window in windows]
            if max(variances) >= test.max_variance or min(means) <= test.min_mean:
                continue
            if np.var(variances) <= test.max_variance_change and np.var(means) <= test.max_mean_change:
                found.append((top, left))
    return found


def test_textured_dark_and_flickering_windows_are_rejected_and_small_noise_is_kept() -> None:
    assert noise_windows(ArrayFrames(scene()), WindowTest(SIZE)) == [(0, 0)]
    assert noise_windows(ArrayFrames(scene()), WindowTest(SIZE, min_mean=98)) == [(0, 0)]
    assert noise_windows(ArrayFrames(scene()), WindowTest(SIZE, min_mean=102)) == []
    loose = WindowTest(SIZE, max_variance=1e4, max_variance_change=1e9, max_mean_change=1e4)
    found = noise_windows(ArrayFrames(scene()), loose)
    assert found == [(0, 0), (0, SIZE), (0, 3 * SIZE)]  # the mean of the dark window is still 0
    noisy = scene()
    noisy[::2, :, :SIZE, :SIZE] = 100 + (noisy[::2, :, :SIZE, :SIZE].astype(int) - 100) * 2
    assert noise_windows(ArrayFrames(noisy), WindowTest(SIZE)) == []  # its variance flickers


def test_the_last_window_that_fits_exactly_is_left_out() -> None:
    assert [num_windows(length, 8) for length in (7, 8, 9, 16, 17, 24, 25)] == [0, 0, 1, 1, 2, 2, 3]
    plain = ArrayFrames(np.full((2, 1, 17, 32), 90, dtype=np.uint8))
    assert noise_windows(plain, WindowTest(SIZE)) == [(row, column) for row in (0, 8) for column in (0, 8, 16)]


def test_windows_are_those_of_the_loop() -> None:
    random = np.random.default_rng(1)
    base = random.uniform(0, 200, (1, 3, 5, 6)) * (random.random((1, 1, 5, 6)) < 0.8)
    strength = random.uniform(0, 10, (1, 1, 5, 6)).repeat(SIZE, axis=2).repeat(SIZE, axis=3)
    clip = base.repeat(SIZE, axis=2).repeat(SIZE, axis=3) + random.normal(0, 1, (5, 3, 40, 48)) * strength
    clip = clip.round().clip(0, 255).astype(np.uint8)
    tests = (WindowTest(SIZE), WindowTest(SIZE, 20, 30, 5, 0.05), WindowTest(SIZE, 200, 10, 300, 0.5))
    found = [noise_windows(ArrayFrames(clip), test) for test in tests]
    assert found == [by_loops(clip, test) for test in tests]
    assert len({len(windows) for windows in found} - {0}) == 3


def test_sequences_are_written_frame_by_frame(tmp_path: Path) -> None:
    clip = np.broadcast_to(scene(), (6, 3, 2 * SIZE, 4 * SIZE + 1))
    with_colour = [
        (folder.name, shown.shape)
        for folder, shown in write_windows("a", ArrayFrames(clip), tmp_path, WindowTest(SIZE), 2)
    ]
    assert with_colour == [(f"a_{number}", (3, 3, SIZE, SIZE)) for number in range(3)]  # three parts of two frames
    read = FolderFrames(tmp_path / "a_1")
    np.testing.assert_array_equal(read.read(0, 2), clip[2:4, :, :SIZE, :SIZE])
    assert Image.open(tmp_path / "a_1" / "00000001.png").size == (SIZE, SIZE)
    with pytest.raises(ValueError, match="a has 6 frames, fewer than the 7 of a sequence"):
        list(write_windows("a", ArrayFrames(clip), tmp_path, WindowTest(SIZE), 7))
