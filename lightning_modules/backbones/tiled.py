"""Apply a function of images to padded images, to tiles of large ones, and to their rotations and reflections.

Each takes a function that maps images `[B, C, H, W]` to images of the same size, a network for example, and images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import at_least

ImageFunction = Callable[[Tensor], Tensor]


def padded(function: ImageFunction, image: Tensor, multiple: int) -> Tensor:
    """Reflect images at their lower and right borders up to a multiple of a network's stride, and cut that off again.

    Args:
        function: maps images to images of the same size.
        image: `[B, C, H, W]`.
        multiple: that height and width become multiples of.

    Returns:
        `[B, C', H, W]`.

    Raises:
        ValueError: if the images are too small to be reflected that far.
    """
    at_least(1, multiple=multiple)
    height, width = image.shape[2:]
    down, right = -height % multiple, -width % multiple
    if down >= height or right >= width:
        raise ValueError(
            f"images of {height} x {width} pixels are too small for a network that needs multiples of {multiple}: "
            f"they need more than {multiple // 2} pixels a side"
        )
    if down or right:
        image = F.pad(image, (0, right, 0, down), mode="reflect")
    return function(image)[..., :height, :width]


def tile_spans(length: int, tile: int, overlap: int) -> list[tuple[slice, slice]]:
    """Divide a side into tiles.

    Args:
        length: of the side, in pixels.
        tile: of a tile.
        overlap: pixels that two neighbours share.

    Returns:
        Of each tile the pixels that it sees, and those among them, counted from the side's start, that it gives: up to
        the middle of what it shares with a neighbour.
    """
    starts = range(0, max(length - overlap, 1), tile - overlap)
    spans = []
    for start in starts:
        end = min(start + tile, length)
        first = start + overlap // 2 if start else 0
        last = end - (overlap - overlap // 2) if end < length else length
        spans.append((slice(start, end), slice(first, last)))
    return spans


def tiled(function: ImageFunction, image: Tensor, tile: int, overlap: int) -> Tensor:
    """Apply a function to overlapping tiles of images, in memory that does not grow with the images.

    A pixel's value is that of the tile in whose inside it lies deepest. So it is what the function gives for the whole
    image, if it depends on pixels at most half of the overlap away, and, for a network with a stride, if tile and
    overlap are multiples of that.

    Args:
        function: maps images to images of the same size; called once for each tile.
        image: `[B, C, H, W]`.
        tile: side of a tile, in pixels; those at the lower and right borders can be smaller.
        overlap: pixels that neighbouring tiles share, less than half a tile.

    Returns:
        `[B, C', H, W]`.

    Raises:
        ValueError: if the overlap is negative or not less than half a tile.
    """
    _check_tile(tile, overlap)
    height, width = image.shape[2:]
    if height <= tile and width <= tile:
        return function(image)
    whole: Tensor | None = None
    rows, columns = tile_spans(height, tile, overlap), tile_spans(width, tile, overlap)
    for (seen_rows, rows_given), (seen_columns, columns_given) in product(rows, columns):
        found = function(image[..., seen_rows, seen_columns])
        if whole is None:
            whole = found.new_empty(*found.shape[:2], height, width)
        top, left = seen_rows.start, seen_columns.start
        whole[..., rows_given, columns_given] = found[
            ...,
            rows_given.start - top : rows_given.stop - top,
            columns_given.start - left : columns_given.stop - left,
        ]
    assert whole is not None
    return whole


def self_ensembled(function: ImageFunction, image: Tensor) -> Tensor:
    """Average what a function gives for the eight rotations and reflections of images, each turned back.

    Source: Timofte, Rothe and Van Gool, Seven Ways to Improve Example-Based Single Image Super Resolution, CVPR 2016,
    arXiv 1511.02228.

    Args:
        function: maps images to images of the same size.
        image: `[B, C, H, W]`.

    Returns:
        `[B, C', H, W]`.
    """
    total: Tensor | None = None
    for quarters, flipped in product(range(4), (False, True)):
        turned = torch.rot90(image.flip(3) if flipped else image, quarters, dims=(2, 3))
        found = torch.rot90(function(turned), -quarters, dims=(2, 3))
        found = found.flip(3) if flipped else found
        total = found if total is None else total + found
    assert total is not None
    return total / 8


@dataclass(frozen=True)
class TiledInference:
    """Say how a network is applied to whole images of any size; by default just so.

    Args:
        multiple: the network's stride: images are reflected up to sides that are multiples of it.
        tile: side of the tiles that large images are restored in, in pixels; None restores them whole.
        overlap: pixels that neighbouring tiles share; from twice the network's reach on, tiles give what whole images
            give.
        self_ensemble: whether the result is the mean over eight rotations and reflections.

    Raises:
        ValueError: if an argument is out of range.
    """

    multiple: int = 1
    tile: int | None = None
    overlap: int = 64
    self_ensemble: bool = False

    def __post_init__(self) -> None:
        at_least(1, multiple=self.multiple)
        if self.tile is not None:
            _check_tile(self.tile, self.overlap)

    def __call__(self, function: ImageFunction, image: Tensor) -> Tensor:
        """Apply a function to images `[B, C, H, W]`."""
        if self.multiple > 1:
            function = partial(padded, function, multiple=self.multiple)
        if self.tile is not None:
            function = partial(tiled, function, tile=self.tile, overlap=self.overlap)
        return self_ensembled(function, image) if self.self_ensemble else function(image)


def _check_tile(tile: int, overlap: int) -> None:
    at_least(1, tile=tile)
    if not 0 <= overlap < tile / 2:
        raise ValueError(f"overlap must be at least 0 and less than half of the tile, {tile}, got {overlap}")
