import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.robustness.diffusion_guard.mask_augmentation import (
    deformed,
    draw_kept,
    filled,
    outer_contour,
    radius,
    shrunk,
)
from tests.robustness.diffusion_guard.linear_inpainter import images


def ellipse(size: int = 64) -> np.ndarray:
    row, column = np.mgrid[:size, :size] / size
    return ((row - 0.5) / 0.23) ** 2 + ((column - 0.47) / 0.33) ** 2 <= 1


def test_the_radius_is_the_codes() -> None:
    region = np.zeros((20, 20), dtype=bool)
    region[2:10, 3:8] = True
    assert radius(region) == pytest.approx(np.sqrt(40 * np.pi / 2))


def test_polygons_are_filled_as_opencv_fills_them() -> None:
    """Numbers of pixels by its `drawContours`; without the outline there are 386, 539 and 336."""
    corners = {
        398: [(2, 3), (5, 28), (29, 20), (17, 9)],
        563: [(1, 1), (3, 30), (14, 22), (30, 29), (20, 4)],
        340: [(4, 16), (16, 29), (28, 15), (15, 3)],
    }
    for count, polygon in corners.items():
        assert abs(int(filled(np.array(polygon), (32, 32)).sum()) - count) <= 1


def test_a_contour_fills_to_its_region() -> None:
    region = ellipse()
    assert (filled(outer_contour(region), region.shape) == region).all()
    ring = region.copy()
    ring[30:34, 28:34] = False
    assert (filled(outer_contour(ring), ring.shape) == region).all()  # the outer contour alone
    two = region.copy()
    two[:3, :3] = True
    assert (filled(outer_contour(two), two.shape) == region).all()  # of the largest part
    square = np.zeros((6, 6), dtype=bool)
    square[1:5, 2:5] = True
    assert sorted(map(tuple, outer_contour(square).tolist())) == [(1, 2), (1, 4), (4, 2), (4, 4)]
    for pixels in ([(2, 3)], [(2, 3), (2, 4)], [(0, 0), (1, 1)]):
        few = np.zeros((5, 5), dtype=bool)
        few[tuple(zip(*pixels, strict=True))] = True
        assert (filled(outer_contour(few), few.shape) == few).all()
    assert len(outer_contour(np.zeros((4, 4), dtype=bool))) == 0


def test_without_offsets_a_region_stays() -> None:
    region = ellipse()
    still = deformed(region, 0, 3.0, np.random.default_rng(0))
    assert (still & region).sum() >= 0.99 * region.sum()
    nothing = np.zeros((9, 9), dtype=bool)
    assert not shrunk(nothing, np.random.default_rng(0)).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_deformed_region_stays_within_its_own(seed: int) -> None:
    region = ellipse()
    drawn = shrunk(region, np.random.default_rng(seed))
    assert drawn.dtype == bool
    assert 0 < drawn.sum() <= 1.05 * region.sum()
    assert (drawn & ~region).sum() <= 24


def test_shrinking_has_the_published_spread() -> None:
    region, random = ellipse(), np.random.default_rng(0)
    kept = [shrunk(region, random).sum() / region.sum() for _ in range(120)]
    assert 0.15 < np.median(kept) < 0.5  # .34 over 300 draws of the authors' code
    assert np.quantile(kept, 0.95) > 0.9


def test_what_is_kept_is_the_union_of_the_regions() -> None:
    _, regions, _ = images(1)
    both, random = regions[0].numpy(), np.random.default_rng(1)
    assert (draw_kept(both, "single", random) == (both[0] | both[1])).all()
    assert draw_kept(both, "global", random).all()
    apart = np.stack([shrunk(region, np.random.default_rng(5)) for region in both[:1]])
    assert (draw_kept(both[:1], "contour", np.random.default_rng(5)) == apart[0]).all()
