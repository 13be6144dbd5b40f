import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor

from datamodules.corruptions.mask_noise import (
    Affine,
    ErosionDilation,
    MaskNoise,
    OverUnderSegmentation,
    mask_noise_statistics,
)
from datamodules.corruptions.mask_noise.interface import uniform_of_each
from datamodules.randomness.counter import sample_uniform
from tests.largest_tensor import LargestTensor

SQUARE = np.ones((3, 3), dtype=bool)
KINDS = [ErosionDilation, OverUnderSegmentation, Affine]
NOTHING: list[MaskNoise] = [
    ErosionDilation(0, 0, seed=3),
    OverUnderSegmentation(0, 0, seed=3),
    OverUnderSegmentation(noise_level=0.0, seed=3),
    Affine(0, 0, 0, seed=3),
]


def blobs(seed: int, count: int = 6, size: tuple[int, int] = (30, 26)) -> Tensor:
    """Draw masks of an ellipse and a rectangle that may overlap, with some ignored pixels."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((count, *size), dtype=np.uint8)
    for mask in masks:
        for category in (1, 2):
            centre, half = random.uniform(4, 22, 2), random.uniform(2, 9, 2)
            down, right = np.abs(row - centre[0]) / half[0], np.abs(column - centre[1]) / half[1]
            mask[(np.hypot(down, right) if category == 1 else np.maximum(down, right)) <= 1] = category
        mask[random.random(size) < 0.02] = 255
    return torch.from_numpy(masks)


def rectangle(height: int, width: int, size: int = 64, category: int = 1) -> Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    mask[0, top : top + height, left : left + width] = category
    return mask


# every kind


@pytest.mark.parametrize("noise", NOTHING, ids=lambda noise: type(noise).__name__)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_no_severity_is_the_identity(noise: MaskNoise, seed: int) -> None:
    mask = blobs(seed)
    given_mask = noise.apply(mask, 3)
    assert torch.equal(given_mask, mask)
    assert given_mask.data_ptr() != mask.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_mask_depends_on_seed_and_position_alone(kind: Any, seed: int) -> None:
    mask, index = blobs(seed, 8), torch.arange(20, 28)
    before = mask.clone()
    whole = kind(seed=seed).apply(mask, 3, index)
    assert torch.equal(mask, before)
    assert whole.dtype == torch.uint8
    chosen = torch.tensor([5, 0, 3])
    torch.manual_seed(seed)
    assert torch.equal(kind(seed=seed).apply(mask[chosen], 3, index[chosen]), whole[chosen])
    assert torch.equal(kind(seed=seed).apply(mask, 3), kind(seed=seed).apply(mask, 3, torch.arange(8)))
    assert not torch.equal(kind(seed=seed + 1).apply(mask, 3, index), whole)
    assert not torch.equal(kind(seed=seed).apply(mask, 3), whole)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_ignored_pixels_stay_and_categories_come_from_their_image(kind: Any, seed: int) -> None:
    mask = blobs(seed)
    mask[0][mask[0] == 2] = 0
    given_mask = kind(seed=1).apply(mask, 3)
    assert torch.equal(given_mask == 255, mask == 255)
    assert 2 not in given_mask[0]
    assert set(given_mask.unique().tolist()) <= {0, 1, 2, 255}


def test_the_numbers_are_not_those_of_augmentation() -> None:
    index = torch.arange(5)
    own = [uniform_of_each(0, kind.__name__, None, 5, 2) for kind in KINDS]
    others = [sample_uniform(0, 0, index, 2, stream) for stream in (0, 1, 2)]
    assert len(torch.stack(own + others).flatten().unique()) == 6 * 10


# erosion and dilation by pixels


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.booleans())
def test_erosion_and_dilation_equal_repeated_ones_of_one_pixel(seed: int, pixels: int, dilate: bool) -> None:
    mask = blobs(seed)
    result = ErosionDilation(pixels, pixels, "dilate" if dilate else "erode", seed=0).apply(mask, 3)
    for before, after in zip(mask.numpy(), result.numpy(), strict=True):
        expected = before.copy()
        for category in (1, 2):
            member = expected == category
            if dilate:
                expected[binary_dilation(member, SQUARE, pixels) & (expected == 0)] = category
            else:
                expected[member & ~binary_erosion(member, SQUARE, pixels, border_value=1)] = 0
        assert np.array_equal(after, expected)


def test_half_of_the_images_shrink_and_severities_are_drawn_evenly() -> None:
    mask = rectangle(20, 20).expand(400, 64, 64)
    pixels = ErosionDilation(1, 3, seed=0).apply(mask, 2).sum(dim=(1, 2))
    sides = [(20 + 2 * change) ** 2 for change in (-3, -2, -1, 1, 2, 3)]
    shares = [float((pixels == side).double().mean()) for side in sides]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 6] * 6, abs=4 * math.sqrt(5 / 36 / 400))


# erosion and dilation in proportion


def cubic_weights(length: int, new_length: int) -> np.ndarray:
    """Return the resizing matrix `[new_length, length]` of Keys' kernel with a = -3/4 and a replicated border."""
    weights = np.zeros((new_length, length))
    for new in range(new_length):
        place = (new + 0.5) * length / new_length - 0.5
        first = math.floor(place) - 1
        for old in range(first, first + 4):
            d = abs(place - old)
            weight = 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[new, min(max(old, 0), length - 1)] += weight
    return weights


def resized(member: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the resized mask, and the pixels whose value depends on rounding errors."""
    value = cubic_weights(len(member), height) @ member.astype(float) @ cubic_weights(member.shape[1], width).T
    return value >= 0.5, np.abs(value - 0.5) < 1e-5


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.booleans())
def test_proportional_noise_equals_an_independent_computation(seed: int, times: int, dilate: bool) -> None:
    mask = blobs(seed, count=3)
    order = [2, 1]
    noise = OverUnderSegmentation(times, times, "dilate" if dilate else "erode", order=order, target_pixels=300, seed=0)
    for before, after in zip(mask.numpy(), noise.apply(mask, 3).numpy(), strict=True):
        expected, sure = before.copy(), True
        for category in order:
            member = expected == category
            if not member.any():
                continue
            ratio = math.sqrt(300 / member.sum())
            small, doubt = resized(member, round(30 * ratio), round(26 * ratio))
            sure &= not doubt.any()
            if dilate:
                changed = binary_dilation(small, SQUARE, times)
            else:
                changed = binary_erosion(small, SQUARE, times, border_value=1)
            back, doubt = resized(changed, 30, 26)
            sure &= not doubt.any()
            if dilate:
                expected[back & (expected == 0)] = category
            else:
                expected[(back != member) & (expected != 255)] = 0
        if sure:
            assert np.array_equal(after, expected)


def test_iterations_of_the_authors_and_the_share_of_images_that_change() -> None:
    mask = rectangle(32, 32).expand(300, 64, 64)
    given_masks = OverUnderSegmentation(noise_level=0.6, seed=0).apply(mask, 2)
    changed = (given_masks != mask).flatten(start_dim=1).any(dim=1)
    assert float(changed.double().mean()) == pytest.approx(0.6, abs=4 * math.sqrt(0.24 / 300))
    assert len(given_masks[changed].sum(dim=(1, 2)).unique()) == 6  # two modes, two to four iterations


def test_categories_change_in_the_order_that_is_given() -> None:
    """Two rectangles are separated by a gap: the category that grows first covers the gap."""
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[0, 20:44, 10:30], mask[0, 20:44, 34:54] = 1, 2
    for order in ([1, 2], [2, 1]):
        grown = OverUnderSegmentation(4, 4, "dilate", order=order, seed=0).apply(mask, 3)
        assert set(grown[0, 24:40, 31:33].unique().tolist()) == {order[0]}
    only = OverUnderSegmentation(4, 4, "dilate", order=[2], seed=0).apply(mask, 3)
    assert torch.equal(only == 1, mask == 1)
    assert torch.equal(OverUnderSegmentation(4, 4, "dilate", order=[], seed=0).apply(mask, 3), mask)


# rotation, scale and shift


def drawn(seed: int) -> list[float]:
    """Return the four numbers in [-1, 1) that are drawn for the first mask of two categories."""
    return (2 * uniform_of_each(seed, "Affine", None, 1, 4)[0].double() - 1).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_shift_moves_a_mask_by_what_is_drawn(seed: int) -> None:
    mask = rectangle(21, 9)
    *_, down, right = drawn(seed)
    moved = Affine(0, 0, 8.0, seed=seed).apply(mask, 2)
    assert torch.equal(moved, mask.roll((round(8 * down), round(8 * right)), dims=(1, 2)))


@pytest.mark.parametrize("seed", range(5))
def test_a_scale_multiplies_lengths(seed: int) -> None:
    _, growth, *_ = drawn(seed)
    pixels = int(Affine(0, 0.4, 0, seed=seed).apply(rectangle(31, 31), 2).sum())
    assert math.sqrt(pixels) == pytest.approx(31 * (1 + 0.4 * growth), abs=1)


@pytest.mark.parametrize("seed", range(5))
def test_an_angle_turns_a_mask_about_its_centre(seed: int) -> None:
    """The main axis of a bar rotates clockwise by the angle; its centre and area are unchanged."""
    angle, *_ = drawn(seed)
    mask = rectangle(45, 5)
    turned = Affine(60, 0, 0, seed=seed).apply(mask, 2)
    assert int(turned.sum()) == pytest.approx(45 * 5, rel=0.1)
    row, column = (place.double() for place in turned[0].nonzero().unbind(dim=1))
    assert (float(row.mean()), float(column.mean())) == pytest.approx((31.5 - 0.5, 31.5), abs=1)
    main = np.linalg.eigh(np.cov(row.numpy(), column.numpy()))[1][:, 1]
    expected = math.radians(60 * angle)
    assert abs(main[0] * math.cos(expected) - main[1] * math.sin(expected)) == pytest.approx(1, abs=2e-3)


def test_categories_move_each_for_itself() -> None:
    mask = rectangle(9, 9)
    mask[0, 5:10, 5:10] = 2
    moved = Affine(0, 0, 6, seed=0).apply(mask, 3)
    shifts = []
    for category in (1, 2):
        before, after = (m[0].eq(category).nonzero().double().mean(dim=0) for m in (mask, moved))
        shifts.append(tuple((after - before).tolist()))
    assert shifts[0] != shifts[1]
    assert max(abs(shift) for pair in shifts for shift in pair) <= 6.5


# statistics


def test_statistics_are_pooled_shares() -> None:
    clean = torch.tensor([[[0, 0, 1, 1], [2, 2, 2, 255]]], dtype=torch.uint8)
    noisy = torch.tensor([[[0, 1, 1, 1], [0, 2, 255, 2]]], dtype=torch.uint8)
    found = mask_noise_statistics(clean, noisy, 4)
    assert found.changed == pytest.approx(2 / 6)
    nan = math.nan
    assert found.lost.tolist() == pytest.approx([1 / 2, 0, 1 / 2, nan], nan_ok=True)
    assert found.false.tolist() == pytest.approx([1 / 2, 1 / 3, 0, nan], nan_ok=True)
    assert found.iou.tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 2, nan], nan_ok=True)


def test_statistics_of_many_masks_are_those_of_all_and_need_the_memory_of_a_few() -> None:
    clean, noisy = blobs(0, 200), blobs(1, 200)
    with LargestTensor() as largest:
        found = mask_noise_statistics(clean, noisy, 3)
    assert largest.elements < clean.numel() / 3
    known = (clean < 3) & (noisy < 3)
    assert found.changed == pytest.approx(float((clean != noisy)[known].double().mean()), rel=1e-12)
    for k in range(3):
        true, labelled = (clean == k) & known, (noisy == k) & known
        assert found.iou[k] == (true & labelled).sum().double() / (true | labelled).sum()
