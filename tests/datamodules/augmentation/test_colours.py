import colorsys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.augmentation.colours import hue_saturation_value, jitter_colours, red_green_blue


def colours(seed: int) -> torch.Tensor:
    """Return colours of all kinds on a coarse grid, so that channels are often equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, (2, 3, 4, 5), generator=generator).double() / 4


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_conversions_are_those_of_the_standard_library(seed: int) -> None:
    image = colours(seed)
    converted = hue_saturation_value(image)
    for pixel, found in zip(image.movedim(1, -1).reshape(-1, 3), converted.movedim(1, -1).reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
        torch.testing.assert_close(found, torch.tensor([360 * hue, saturation, value], dtype=torch.float64))
    torch.testing.assert_close(red_green_blue(converted), image)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_each_image_moves_by_its_own_numbers(seed: int) -> None:
    image = colours(seed)
    uniform = torch.tensor([[1 / 2, 1 / 2, 1 / 2], [1.0, 0.25, 0.75]])
    moved = jitter_colours(image, uniform, hue=20, saturation=0.2, value=0.1)
    torch.testing.assert_close(moved[0], image[0])
    hue, saturation, value = hue_saturation_value(image)[1]
    expected = torch.stack([(hue + 20) % 360, (saturation - 0.1).clamp(min=0), (value + 0.05).clamp(max=1)])
    torch.testing.assert_close(moved[1], red_green_blue(expected[None])[0])
    assert 0 <= moved.min() <= moved.max() <= 1
