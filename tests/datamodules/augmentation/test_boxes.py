import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torchvision.transforms import RandomResizedCrop

from datamodules.augmentation.boxes import Box, box_of_random_area
from datamodules.randomness.counter import sample_uniform

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 10**6))
def test_a_random_box_lies_in_the_image_and_has_an_allowed_shape(width: int, height: int, index: int) -> None:
    uniform = sample_uniform(0, 0, torch.tensor([index]), count=22)[0].tolist()
    left, top, right, bottom = box_of_random_area(width, height, uniform, SCALE, RATIO)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    across, down = right - left, bottom - top
    # Rounding to whole pixels changes a side by at most half a pixel.
    assert (across + 1) / max(down - 1, 0.1) >= RATIO[0]
    assert max(across - 1, 0.1) / (down + 1) <= RATIO[1]


def test_a_box_that_never_fits_is_the_greatest_centred_one() -> None:
    """In a narrow image, no box of the largest area fits at an allowed ratio; torchvision has the same fallback."""
    uniform = [0.5] * 2 + [1 - 1e-7] * 20
    assert box_of_random_area(400, 100, uniform, SCALE, RATIO) == Box(133, 0, 266, 100)
    assert box_of_random_area(100, 400, uniform, SCALE, RATIO) == Box(0, 133, 100, 266)


def test_random_boxes_are_distributed_as_torchvisions() -> None:
    """For an image in which many drawn boxes do not fit, compare areas and aspect ratios (Kolmogorov-Smirnov)."""
    width, height, count = 500, 250, 4000
    uniform = sample_uniform(0, 0, torch.arange(count), count=22).tolist()
    ours = np.array([box_of_random_area(width, height, u, SCALE, RATIO) for u in uniform])
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(count)])
    our_width, our_height = ours[:, 2] - ours[:, 0], ours[:, 3] - ours[:, 1]
    assert kstest(our_width * our_height, theirs[:, 2] * theirs[:, 3]).pvalue > 0.01
    assert kstest(our_width / our_height, theirs[:, 3] / theirs[:, 2]).pvalue > 0.01
    # Positions are uniform over the possible ones, apart from rounding to pixels.
    free = our_height < height - 40
    assert kstest(((ours[:, 1] + 0.5) / (height - our_height + 1))[free], "uniform").pvalue > 0.01
