import numpy as np
import pytest
import torch

from lightning_modules.robustness.drs.checkerboard import Fill, Layout, first_half, gather_kept_pixels, half, max_added

FILLS: list[Fill] = ["maxpool_add", "gather_nearest", "gather_bilinear"]
LAYOUTS: list[Layout] = ["checkerboard", "official"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("height", "width"), [(2, 2), (8, 8), (6, 10)])
def test_each_half_keeps_a_diagonal_of_every_block(layout: Layout, height: int, width: int) -> None:
    mask = first_half(height, width, layout)
    blocks = mask.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).transpose(1, 2)
    for block in blocks.reshape(-1, 2, 2):
        assert block.sum() == 2
        assert block[0, 0] == block[1, 1] != block[0, 1]


def test_layouts() -> None:
    rows, columns = np.indices((6, 8))
    assert np.array_equal(first_half(6, 8).numpy(), (rows + columns) % 2 == 0)
    official = first_half(4, 8, "official").numpy()
    for row in (0, 2):
        assert np.flatnonzero(official[row]).tolist() == [0, 3, 5, 7]
        assert np.flatnonzero(official[row + 1]).tolist() == [1, 2, 4, 6]


@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 7)])
def test_odd_images_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height} x {width}"):
        first_half(height, width)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fill", FILLS)
def test_nothing_of_the_other_half_enters(layout: Layout, fill: Fill) -> None:
    mask = first_half(8, 6, layout)
    image = torch.randn(3, 2, 8, 6)
    for kept in (mask, ~mask):
        shown = half(image, kept, fill)
        assert shown.shape == image.shape
        other = torch.where(kept, image, 100 * torch.randn_like(image))
        assert torch.equal(half(other, kept, fill), shown)
        changed = torch.where(kept, image + 1, image)
        assert not torch.equal(half(changed, kept, fill), shown)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gathered_pixels_are_those_kept_row_by_row(layout: Layout) -> None:
    mask = first_half(4, 6, layout)
    image = torch.randn(2, 3, 4, 6)
    for kept in (mask, ~mask):
        rows = torch.stack([image[:, :, row, kept[row]] for row in range(4)], dim=2)
        assert torch.equal(gather_kept_pixels(image, kept), rows)
        assert torch.equal(half(image, kept, "gather_nearest"), rows.repeat_interleave(2, dim=3))


def test_bilinear_fill_of_a_ramp_of_kept_pixels() -> None:
    """From a row with the kept pixels p and q, the fill makes the four pixels p, (3 p + q) / 4, (p + 3 q) / 4, q."""
    image = torch.tensor([[[[1.0, 9.0, 5.0, 9.0], [9.0, 2.0, 9.0, 4.0]]]])
    shown = half(image, first_half(2, 4), "gather_bilinear")
    torch.testing.assert_close(shown, torch.tensor([[[[1.0, 2.0, 4.0, 5.0], [2.0, 2.5, 3.5, 4.0]]]]))


def test_kept_pixels_get_the_maximum_of_their_block_and_zero_counts_in_it() -> None:
    mask = first_half(2, 4)
    image = torch.tensor([[[[0.2, 9.0, -0.3, 9.0], [9.0, 0.5, 9.0, -0.1]]]])
    expected = torch.tensor([[[[0.7, 0.0, -0.3, 0.0], [0.0, 1.0, 0.0, -0.1]]]])
    torch.testing.assert_close(max_added(image, mask), expected)
