"""Smooth masks are enlarged with nearest neighbours and then blurred; their values are in [0, 1]."""

import pytest
import torch

from datamodules.corruptions.image_noise import CounterRNG, SmoothMask
from datamodules.corruptions.image_noise.smooth_mask import smooth


def test_cells_are_repeated_as_far_as_they_reach() -> None:
    cells = torch.rand(2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = smooth(cells, (28, 28), 1, 1.0)  # a one-pixel kernel leaves the image unchanged
    place = torch.arange(28) * 8 // 28
    expected = cells.view(2, 8, 8)[:, place][:, :, place]
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-12)


def test_the_blur_is_a_normalised_gaussian_with_reflection() -> None:
    cells = torch.zeros(1, 81, dtype=torch.float64)
    cells[0, 40] = 1
    row = smooth(cells, (9, 9), 5, 1.5)[0, 0]
    weight = torch.exp(-(torch.arange(-2.0, 3.0).double() ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    torch.testing.assert_close(row[2:7, 2:7], weight[:, None] * weight, rtol=0, atol=1e-9)
    edge = torch.zeros(1, 81, dtype=torch.float64)
    edge[0, 1] = 1  # next to the corner: reflection counts it twice there
    assert float(smooth(edge, (9, 9), 5, 1.5)[0, 0, 0, 0]) == pytest.approx(float(2 * weight[1] * weight[2]), abs=1e-9)


def test_images_move_towards_the_mean_by_the_mask_of_their_sample() -> None:
    clean, index = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.arange(6)
    noise = SmoothMask(grid=4, kernel=1, sigma=1.0, mean=0.25)
    noisy = noise.sample(clean, CounterRNG(0, 0, index))
    mask = (noisy - 0.25) / (clean - 0.25)
    assert mask.min() >= 0
    assert mask.max() <= 1
    torch.testing.assert_close(mask[:, :1].expand(-1, 3, -1, -1), mask, rtol=0, atol=1e-6)
    assert noise.sample(clean[2:4], CounterRNG(0, 0, index[2:4])).equal(noisy[2:4])
