import numpy as np
import pytest

from datamodules.files.xtrans import CHANNELS, COLOURS, XTRANS, packed_xtrans, start_of, unpacked_xtrans


def of_the_authors(im: np.ndarray) -> np.ndarray:
    """Pack a mosaic with the authors' places of each channel in the blocks (0, 0), (0, 1), (1, 0), (1, 1)."""
    places = [
        [(0, 0), (0, 4), (3, 1), (3, 3)],
        [(0, 2), (0, 5), (3, 2), (3, 5)],
        [(0, 1), (0, 3), (3, 0), (3, 4)],
        [(1, 2), (2, 5), (5, 2), (4, 5)],
        [(2, 2), (1, 5), (4, 2), (5, 5)],
        *([(row, column), (row, column + 3), (row + 3, column), (row + 3, column + 3)]
          for row, column in ((1, 0), (1, 1), (2, 0), (2, 1))),
    ]  # fmt: skip
    out = np.zeros((9, im.shape[0] // 3, im.shape[1] // 3), im.dtype)
    for channel, four in enumerate(places):
        for block, (row, column) in enumerate(four):
            out[channel, block // 2 :: 2, block % 2 :: 2] = im[row::6, column::6]
    return out


def test_packing_is_that_of_the_authors_and_can_be_undone() -> None:
    values = np.arange(12 * 18, dtype=np.uint16).reshape(12, 18)
    np.testing.assert_array_equal(packed_xtrans(values), of_the_authors(values))
    np.testing.assert_array_equal(unpacked_xtrans(packed_xtrans(values)), values)
    larger = np.pad(values, ((0, 5), (0, 2)))  # incomplete cells are omitted
    np.testing.assert_array_equal(packed_xtrans(larger), packed_xtrans(values))


@pytest.mark.parametrize("shift", [(0, 0), (5, 0), (1, 4), (3, 2)])
def test_each_channel_has_one_colour_wherever_the_cell_starts(shift: tuple[int, int]) -> None:
    cell = np.roll(np.array(["RGB".index(colour) for colour in XTRANS]).reshape(6, 6), shift, (0, 1))
    pattern = "".join("RGB"[colour] for colour in cell.flat)
    planes = packed_xtrans(np.tile(cell, (4, 4)), pattern)
    assert ["RGB"[np.unique(plane).item()] for plane in planes] == list(COLOURS)
    assert planes.shape[1] >= 6
    assert all(CHANNELS[row][column] >= 5 for row in (1, 2, 4, 5) for column in (0, 1, 3, 4))  # squares of green


def test_other_patterns_are_none_of_this_sensor() -> None:
    assert start_of("RGGB") is None
    assert start_of(36 * "G") is None
    with pytest.raises(ValueError, match="pattern must be an X-Trans cell"):
        packed_xtrans(np.zeros((6, 6)), "RGGB")
