"""Resampled frames equal those of PyTorch's functions, and values computed from integrals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.corruptions.clip_degradation.resizing import RandomResize, resampling, resize_frames

IMAGE = torch.rand(2, 3, 12, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(5, 30), (24, 8), (12, 17)])
def test_interpolation_is_that_of_pytorch(mode: str, size: tuple[int, int]) -> None:
    expected = F.interpolate(IMAGE, size, mode=mode, align_corners=False)
    torch.testing.assert_close(resize_frames(IMAGE, size, mode), expected)  # type: ignore[arg-type]


def test_area_is_the_mean_over_the_new_pixel() -> None:
    torch.testing.assert_close(resize_frames(IMAGE[..., :16], (4, 8), "area"), F.avg_pool2d(IMAGE[..., :16], (3, 2)))
    fine = IMAGE[0, 0, 0].repeat_interleave(7 * 5)  # from 17 to 7: each is 17 * 35 / 7 fine ones, etc.
    torch.testing.assert_close(resize_frames(IMAGE, (12, 7), "area")[0, 0, 0], fine.view(7, -1).mean(dim=1))
    enlarged = resize_frames(IMAGE, (12, 35), "area")[0, 0, 0]
    torch.testing.assert_close(enlarged, IMAGE[0, 0, 0].repeat_interleave(35).view(35, 17).mean(dim=1))


def test_each_line_has_a_length_of_its_own() -> None:
    matrix = resampling(12, np.array([5, 8]), "bicubic")
    assert matrix.shape == (2, 8, 12)
    assert torch.equal(matrix[0, :5], resampling(12, np.array([5]), "bicubic")[0])
    assert not matrix[0, 5:].any()
    torch.testing.assert_close(matrix[1].sum(dim=1), torch.ones(8, dtype=torch.float64))


def test_frames_get_the_even_size_of_the_first_one_and_keep_what_is_smooth() -> None:
    ramp = torch.linspace(0, 1, 40).expand(6, 3, 30, 40).clone()
    sizes = set()
    for seed in range(60):
        clip = RandomResize(step=0.05).apply(ramp, np.random.default_rng(seed), (4, 4))
        height, width = clip.shape[2:]
        assert (height % 2, width % 2) == (0, 0)
        sizes.add((height, width))
        assert 4 <= height <= 45
        if width > 10:
            expected = resize_frames(ramp, (height, width), "bilinear")
            torch.testing.assert_close(clip[..., 2:-2], expected[..., 2:-2], rtol=0, atol=0.06)
    assert len(sizes) > 20
    kept = RandomResize(up=0, down=0, step=0).apply(ramp, np.random.default_rng(0), (4, 4))
    torch.testing.assert_close(kept, ramp)
