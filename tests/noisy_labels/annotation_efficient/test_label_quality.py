import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.segmentation.ellipses import Ellipses
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.annotation_efficient.label_quality import (
    best_part,
    label_quality,
    mean_over_kept,
    without_holes_and_islands,
)
from lightning_modules.noisy_labels.annotation_efficient.measures import dice
from tests.networks.test_shape_vae import trained


@settings(deadline=None, max_examples=25)
@given(quality=st.lists(st.floats(0, 1), min_size=1, max_size=40), fraction=st.floats(0.01, 1))
def test_the_best_part_is_kept(quality: list[float], fraction: float) -> None:
    kept = best_part(torch.tensor(quality, dtype=torch.float64), fraction)
    assert int(kept.sum()) == math.ceil(fraction * len(quality) - 1e-9)
    inside, outside = (np.array(quality)[chosen.numpy()] for chosen in (kept, ~kept))
    assert not len(outside) or inside.min() >= outside.max()


def test_the_kept_number_is_not_rounded_up_by_rounding() -> None:
    assert best_part(torch.rand(100), 0.07).sum() == 7  # 0.07 * 100 is slightly more than 7
    assert best_part(torch.rand(10), 0.75).sum() == 8


@pytest.fixture(scope="module")
def shapes_learned() -> ShapeVAE:
    torch.manual_seed(0)
    learned, shapes = ShapeVAE(32, 4, (8, 16, 16, 16)), Ellipses(200)
    trained(learned, shapes.masks(torch.arange(200), 32, seed=0)[:, None].float(), 150, batch_size=16, lr=5e-3)
    return learned.eval()


@torch.no_grad()
def test_a_noisy_mask_is_worse_than_a_clean_ellipse(shapes_learned: ShapeVAE) -> None:
    clean = Ellipses(20).masks(torch.arange(20), 32, seed=5).long()
    noise = (torch.rand(20, 32, 32) < 0.3).long()
    good, bad = label_quality(clean, None, shapes_learned), label_quality(noise, None, shapes_learned)
    assert good.min() > bad.max()
    kept = best_part(torch.cat([good, bad]), 0.5)
    assert kept.tolist() == [True] * 20 + [False] * 20


@torch.no_grad()
def test_quality_is_the_product_of_both_agreements(shapes_learned: ShapeVAE) -> None:
    label, before = Ellipses(10).masks(torch.arange(10), 32, seed=7).long().split(5)
    again = (shapes_learned(label[:, None].float())[:, 0] > 0).long()
    expected = dice(label, again) * dice(label, before)
    torch.testing.assert_close(label_quality(label, before, shapes_learned), expected)
    torch.testing.assert_close(label_quality(label, before, None), dice(label, before))
    assert label_quality(label, None, None).tolist() == [1.0] * 5


def test_cleaning_keeps_the_largest_part_of_each_mask_and_fills_its_holes() -> None:
    masks = torch.zeros(4, 12, 12, dtype=torch.int64)
    expected = masks.clone()
    masks[0, 2:8, 2:8] = masks[0, 10:, 10:] = 1  # a ring and an island
    masks[0, 4:6, 4:6] = 0
    masks[1, 0:3, 0:3] = masks[1, 3:5, 3:5] = 1  # touch at a corner
    masks[2, 2:8, 2:8] = 1
    expected[[0, 2], 2:8, 2:8] = expected[1, 0:3, 0:3] = 1
    assert torch.equal(without_holes_and_islands(masks), expected)


def test_only_kept_samples_have_a_loss_and_it_is_their_mean() -> None:
    loss, kept = torch.rand(6, dtype=torch.float64), torch.tensor([True, False, True, True, False, False])
    torch.testing.assert_close(mean_over_kept(loss, kept), loss[kept].mean())
    assert mean_over_kept(loss, torch.zeros_like(kept)) == 0
