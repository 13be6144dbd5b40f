"""Boxes of noise: their area, shape, position, frequency and content."""

import math

import pytest
import torch

from lightning_modules.views import AddedNoise, RandomErasing, TimmView
from lightning_modules.views.noise import erased_boxes


def test_a_box_has_the_area_ratio_and_place_that_were_drawn() -> None:
    uniform = torch.full((2, 22), 0.5)
    uniform[0, :4] = torch.tensor([0.0, 0.999, (0.1 - 0.02) / (1 / 3 - 0.02), 0.5])  # a tenth, square, top right
    uniform[1, 2::2], uniform[1, 3::2] = 0.999, 0.999  # a third, with a ratio that does not fit anywhere
    box = erased_boxes(uniform, 40, 40)
    rows, columns = box[0].nonzero().unbind(dim=1)
    side = round(40 * math.sqrt(0.1))
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (0, side - 1, 40 - side, 39)
    assert int(box[0].sum()) == side**2
    assert not box[1].any()


def test_a_box_is_lower_and_narrower_than_the_image() -> None:
    for height, width, found in ((10, 40, False), (40, 10, False), (11, 40, True)):
        uniform = torch.full((1, 22), 0.5)
        uniform[:, 2::2] = (100 / (height * width) - 0.02) / (1 / 3 - 0.02)  # a square of 10 x 10 pixels
        assert bool(erased_boxes(uniform, height, width).any()) == found


def test_areas_and_ratios_have_their_distributions() -> None:
    box = erased_boxes(torch.rand(4000, 22, generator=torch.Generator().manual_seed(0)), 60, 80).float()
    tall, wide = (box.amax(dim=dim).sum(dim=1) for dim in (2, 1))
    area, ratio = tall * wide / 4800, (tall / wide).log()
    assert area.min() > 0.015
    assert area.max() < 0.35
    assert ratio.abs().max() < -math.log(0.3) + 0.2
    assert float(ratio.mean()) == pytest.approx(0, abs=0.1)  # fewer tall boxes fit than wide ones
    assert box.mean(dim=(0, 2)).std() < 0.08


def test_some_images_have_a_box_of_noise_and_others_stay() -> None:
    torch.manual_seed(0)
    image = torch.full((2000, 3, 24, 24), 2.0)  # a value that noise never has
    changed = RandomErasing(0.25)(image)
    erased = changed[:, 0] != 2
    assert float(erased.any(dim=2).any(dim=1).float().mean()) == pytest.approx(0.25, abs=0.03)
    inside = changed.movedim(1, -1)[erased]
    assert inside.mean(dim=0).tolist() == pytest.approx([0.49, 0.46, 0.41], abs=0.02)
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert RandomErasing(0.0)(image).equal(image)
    viewed = TimmView()(torch.rand(4, 3, 16, 16))
    assert 0 <= viewed.min() <= viewed.max() <= 1
    assert AddedNoise(0.3)(torch.rand(2, 1, 4, 4)).min() >= 0
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 1.5"):
        RandomErasing(1.5)
