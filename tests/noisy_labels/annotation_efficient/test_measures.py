import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.noisy_labels.annotation_efficient.measures import (
    AverageSurfaceDistance,
    MeanDice,
    average_surface_distance,
    dice,
)


def rectangle(top: int, left: int, bottom: int, right: int, size: int = 16) -> Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def border(mask: Tensor) -> list[tuple[int, int]]:
    """Pixels of the mask with a neighbour that is not of it, or beyond the image."""
    height, width = mask.shape
    inside = {(r, c) for r in range(height) for c in range(width) if mask[r, c]}
    return [(r, c) for r, c in inside if not {(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)} <= inside]


def by_definition(one: Tensor, other: Tensor) -> float:
    a, b = border(one), border(other)
    nearest = [min(math.dist(p, q) for q in b) for p in a] + [min(math.dist(p, q) for p in a) for q in b]
    return sum(nearest) / len(nearest)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), share=st.floats(0.1, 0.9))
def test_it_is_the_mean_over_both_borders(seed: int, share: float) -> None:
    random = torch.Generator().manual_seed(seed)
    one, other = torch.rand(2, 8, 9, generator=random) < share
    one[3, 3] = other[4, 5] = True
    expected = by_definition(one, other)
    assert float(average_surface_distance(one, other)) == pytest.approx(expected)
    assert float(average_surface_distance(other, one)) == pytest.approx(expected)


def test_known_distances() -> None:
    square = rectangle(4, 4, 9, 9)
    assert average_surface_distance(square, square) == 0
    point, shifted = rectangle(3, 3, 4, 4), rectangle(6, 7, 7, 8)
    assert average_surface_distance(point, shifted) == 5
    # Rows at a distance of 2, equally long
    assert average_surface_distance(rectangle(2, 0, 3, 16), rectangle(4, 0, 5, 16)) == 2


def test_empty_masks() -> None:
    empty = rectangle(0, 0, 0, 0)
    assert average_surface_distance(empty, empty) == 0
    assert float(average_surface_distance(empty, rectangle(1, 1, 3, 3))) == pytest.approx(16 * math.sqrt(2))


def test_metric_is_the_mean_over_images_whatever_the_batches() -> None:
    masks = torch.stack([rectangle(i, i, i + 4, i + 5) for i in range(5)])
    truth = rectangle(4, 4, 9, 9).expand(5, 16, 16)
    metric = AverageSurfaceDistance()
    metric.update(masks[:2].long(), truth[:2].long())
    metric.update(masks[2:].long(), truth[2:].long())
    assert float(metric.compute()) == pytest.approx(sum(by_definition(m, truth[0]) for m in masks) / 5)


def test_dice_of_known_masks() -> None:
    one, other = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    one[0, :2], other[0, 1:3] = 1, 1
    assert dice(one, other).tolist() == [0.5, 1.0]
    assert dice(one[:1], 1 - one[:1]).tolist() == [0.0]


def test_images_that_are_empty_in_both_masks_count_in_the_mean_dice() -> None:
    full, empty = torch.ones(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.int64)
    metric = MeanDice()
    metric.update(empty, empty)
    assert float(metric.compute()) == 1
    metric.update(torch.cat([full, empty, empty]), torch.cat([full, full, empty]))
    assert float(metric.compute()) == pytest.approx(3 / 4)
