import math

import pytest
import torch
import torch.nn.functional as F
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


def border(mask: Tensor) -> Tensor:
    """Return positions of mask pixels with a neighbour outside the mask or outside the image, `[n, 2]`."""
    around = F.pad(mask.double()[None], (1, 1, 1, 1))[0]
    inside = around[:-2, 1:-1] * around[2:, 1:-1] * around[1:-1, :-2] * around[1:-1, 2:] > 0
    return (mask & ~inside).nonzero().double()


def by_definition(one: Tensor, other: Tensor) -> float:
    distance = torch.cdist(border(one), border(other))
    return float(torch.cat([distance.amin(dim=0), distance.amin(dim=1)]).mean())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_it_is_the_mean_over_both_borders(share: float) -> None:
    one, other = torch.rand(2, 8, 9, generator=torch.Generator().manual_seed(0)) < share
    one[3, 3] = other[4, 5] = True
    expected = by_definition(one, other)
    assert float(average_surface_distance(one, other)) == pytest.approx(expected)
    assert float(average_surface_distance(other, one)) == pytest.approx(expected)


def test_known_distances() -> None:
    square, empty = rectangle(4, 4, 9, 9), rectangle(0, 0, 0, 0)
    assert average_surface_distance(square, square) == average_surface_distance(empty, empty) == 0
    assert average_surface_distance(rectangle(3, 3, 4, 4), rectangle(6, 7, 7, 8)) == 5
    # Rows of equal length at a distance of 2
    assert average_surface_distance(rectangle(2, 0, 3, 16), rectangle(4, 0, 5, 16)) == 2
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
