"""Packing of raw images from Fujifilm's X-Trans sensors, whose colour filters repeat every 6 x 6 pixels.

Each block of 3 x 3 pixels becomes one packed pixel with nine channels: R, G, B, R, B and four times G. The position of
a channel's pixel within its block differs between blocks, because the colours do not repeat every three pixels.
See-in-the-Dark (Chen et al., CVPR 2018) and ELD use the same packing.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

XTRANS = "RBGBRGGGRGGBGGBGGRBRGRBGGGBGGRGGRGGB"
"""Colours of the 6 x 6 cell at which packing starts, row by row."""
COLOURS = "RGBRBGGGG"
"""Colour of each packed channel."""
CHANNELS = (
    (0, 2, 1, 2, 0, 1),
    (5, 6, 3, 5, 6, 4),
    (7, 8, 4, 7, 8, 3),
    (2, 0, 1, 0, 2, 1),
    (5, 6, 4, 5, 6, 3),
    (7, 8, 3, 7, 8, 4),
)
"""For each pixel of the cell, the index of the packed channel that contains it."""


def start_of(pattern: str) -> tuple[int, int] | None:
    """Find the row and column at which the cell `XTRANS` first starts in an image.

    Args:
        pattern: colours of the 6 x 6 cell at the top left, row by row.

    Returns:
        The row and column, or None if the colours are not those of an X-Trans sensor.
    """
    if len(pattern) != 36:
        return None
    cell, wanted = (np.array(list(each)).reshape(6, 6) for each in (pattern, XTRANS))
    places = [(row, column) for row in range(6) for column in range(6)]
    return next((place for place in places if (np.roll(cell, (-place[0], -place[1]), (0, 1)) == wanted).all()), None)


def packed_xtrans(values: NDArray[Any], pattern: str = XTRANS) -> NDArray[Any]:
    """Crop an X-Trans image `[H, W]` to whole cells, and pack it into nine channels, `[9, H / 3, W / 3]`.

    Args:
        values: image `[H, W]`.
        pattern: colours of the 6 x 6 cell at the top left, row by row.
    """
    if (start := start_of(pattern)) is None:
        raise ValueError(f"pattern must be an X-Trans cell of 36 colours, got {pattern}")
    values = values[start[0] :, start[1] :]
    height, width = values.shape[0] // 6 * 6, values.shape[1] // 6 * 6
    planes = np.empty((9, height // 3, width // 3), dtype=values.dtype)
    for row, channels in enumerate(CHANNELS):
        for column, channel in enumerate(channels):
            planes[channel, row // 3 :: 2, column // 3 :: 2] = values[row:height:6, column:width:6]
    return planes


def unpacked_xtrans(planes: NDArray[Any]) -> NDArray[Any]:
    """Unpack nine channels `[9, H, W]` into an X-Trans image `[3 H, 3 W]` that starts with the cell `XTRANS`.

    H and W must be even.
    """
    _, height, width = planes.shape
    values = np.empty((3 * height, 3 * width), dtype=planes.dtype)
    for row, channels in enumerate(CHANNELS):
        for column, channel in enumerate(channels):
            values[row::6, column::6] = planes[channel, row // 3 :: 2, column // 3 :: 2]
    return values
