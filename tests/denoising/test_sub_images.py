import pytest
import torch

from datamodules.corruptions.image_noise import CorrelatedGaussian
from datamodules.randomness.counter import CounterRNG
from lightning_modules.denoising.sub_images import (
    drawn_uniformly,
    merge_sub_images,
    sub_images,
    sub_sampled,
    through_sub_images,
)


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_sub_images_are_strided_slices_and_are_put_together_again(stride: int) -> None:
    image = torch.rand(2, 3, 4 * stride, 3 * stride)
    split = sub_images(image, stride)
    assert split.shape == (stride**2, 2, 3, 4, 3)
    for number in range(stride**2):
        row, column = divmod(number, stride)
        assert split[number].equal(image[:, :, row::stride, column::stride])
    assert merge_sub_images(split).equal(image)
    assert through_sub_images(lambda x: x + 1, image, stride).equal(image + 1)


def test_an_index_names_a_pixel_of_each_cell_for_all_channels() -> None:
    image, index = torch.rand(2, 3, 6, 9), torch.randint(9, (4, 2, 2, 3))
    picked = sub_sampled(image, index, 3)
    for m, n, i, j in torch.cartesian_prod(*(torch.arange(size) for size in index.shape)).tolist():
        row, column = divmod(int(index[m, n, i, j]), 3)
        assert picked[m, n, :, i, j].equal(image[n, :, 3 * i + row, 3 * j + column])
    assert sub_sampled(image, torch.zeros_like(index), 3)[0].equal(image[:, :, ::3, ::3])


def test_each_pixel_of_a_cell_is_drawn_equally_often() -> None:
    torch.manual_seed(0)
    drawn = (drawn_uniformly(torch.empty(4, 3, 100, 102), 1, 2) * 4).long()
    assert drawn.shape == (4, 1, 50, 51)
    count = drawn.flatten().bincount(minlength=4).double()
    assert len(count) == 4
    expected = count.sum() / 4
    assert ((count - expected).square() / expected).sum() < 16.27  # chi-square with 3 degrees of freedom, 0.1 %


def test_random_sub_samples_lower_the_correlation_of_neighbours_but_less_than_fixed_ones() -> None:
    """One random pixel in each of two adjacent 2 x 2 cells: they are 1 to 3 pixels apart, with an offset of -1 to 1.

    The distances 1, 2, 2 and 3 have equal probabilities, and so do the sideways offsets -1, 0, 0 and 1.
    """
    law, clean = CorrelatedGaussian(grey_levels=255, blur=0.7), torch.zeros(100, 1, 64, 64, dtype=torch.float64)
    noise = law.sample(clean, CounterRNG(0, 0, torch.arange(100)))
    torch.manual_seed(0)
    index = (drawn_uniformly(clean, 1, 2) * 4).long().transpose(0, 1)
    alone = law.covariance(clean)
    c = {distance: float(alone[len(alone) // 2 + distance]) for distance in range(-1, 4)}
    expected = (c[1] + 2 * c[2] + c[3]) / 4 * (2 * c[0] + c[1] + c[-1]) / 4
    for sampled, correlation in (
        (noise, c[1]),
        (sub_sampled(noise, torch.zeros_like(index), 2)[0], c[2]),
        (sub_sampled(noise, index, 2)[0], expected),
    ):
        assert float((sampled[..., 1:] * sampled[..., :-1]).mean()) == pytest.approx(correlation, abs=0.01)
    assert c[2] < expected < c[1] / 3


def test_a_stride_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="height and width must be divisible by the stride 5, got 10 x 12"):
        sub_images(torch.rand(1, 3, 10, 12), 5)
