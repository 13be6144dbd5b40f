"""Apply an image-to-image function to padded images, in tiles, or averaged over rotations and reflections.

The argument `function` can be a network. It maps images `[B, C, H, W]` to images of the same height and width.
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


def apply_padded(function: ImageFunction, image: Tensor, multiple: int) -> Tensor:
    """Apply a function to images whose sides are padded by reflection to multiples of `multiple`, and crop the result.

    Args:
        function: function that maps images to images of the same size.
        image: images, `[B, C, H, W]`, which are padded at their lower and right borders.
        multiple: number by which the padded height and width are divisible, for example the stride of a network.

    Returns:
        Output images, `[B, C', H, W]`.
    """
    at_least(1, multiple=multiple)
    height, width = image.shape[2:]
    down, right = -height % multiple, -width % multiple
    if down >= height or right >= width:
        raise ValueError(
            f"images of {height} x {width} pixels are too small for a network that needs multiples of {multiple}: "
            f"each side must exceed {multiple // 2} pixels"
        )
    if down or right:
        image = F.pad(image, (0, right, 0, down), mode="reflect")
    return function(image)[..., :height, :width]


def tile_spans(length: int, tile: int, overlap: int) -> list[tuple[slice, slice]]:
    """Divide one side of an image into overlapping intervals, one for each tile.

    Args:
        length: length of the side, in pixels.
        tile: length of a tile, in pixels.
        overlap: number of pixels that neighbouring tiles share.

    Returns:
        For each tile, two slices along the side: the input pixels of the tile, and those output pixels that are taken
        from this tile. Neighbouring output slices meet in the middle of the overlap.
    """
    starts = range(0, max(length - overlap, 1), tile - overlap)
    spans = []
    for start in starts:
        end = min(start + tile, length)
        first = start + overlap // 2 if start else 0
        last = end - (overlap - overlap // 2) if end < length else length
        spans.append((slice(start, end), slice(first, last)))
    return spans


def apply_tiled(function: ImageFunction, image: Tensor, tile: int, overlap: int) -> Tensor:
    """Apply a function to overlapping tiles of images; the function's memory use is independent of the image size.

    Each output pixel is taken from the tile in which it is farthest from the border. The result is the same as without
    tiles if each output pixel depends only on input pixels at a distance of at most half the overlap. For a network
    with a stride, tile and overlap must also be multiples of the stride.

    Args:
        function: function that maps images to images of the same size; it is called once for each tile.
        image: images, `[B, C, H, W]`.
        tile: side length of a tile, in pixels; tiles at the lower and right borders can be smaller.
        overlap: number of pixels that neighbouring tiles share; must be less than half of `tile`.

    Returns:
        Output images, `[B, C', H, W]`.
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
    """Apply a function to the eight rotations and reflections of images, transform the outputs back, and average them.

    Source: Timofte, Rothe and Van Gool, Seven Ways to Improve Example-Based Single Image Super Resolution, CVPR 2016,
    arXiv 1511.02228.

    Args:
        function: function that maps images to images of the same size.
        image: images, `[B, C, H, W]`.

    Returns:
        Output images, `[B, C', H, W]`.
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
    """Settings for applying a network to images of any size. By default, images are neither padded nor divided.

    Args:
        multiple: stride of the network; image sides are padded by reflection to multiples of this number.
        tile: side length, in pixels, of the tiles into which large images are divided; None processes whole images.
        overlap: number of pixels that neighbouring tiles share. If the overlap is at least twice the radius of the
            network's receptive field, the result is the same as for whole images.
        self_ensemble: average the result over the eight rotations and reflections of an image.
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
            function = partial(apply_padded, function, multiple=self.multiple)
        if self.tile is not None:
            function = partial(apply_tiled, function, tile=self.tile, overlap=self.overlap)
        return self_ensembled(function, image) if self.self_ensemble else function(image)


def _check_tile(tile: int, overlap: int) -> None:
    at_least(1, tile=tile)
    if not 0 <= overlap < tile / 2:
        raise ValueError(f"overlap must be at least 0 and less than half of the tile, {tile}, got {overlap}")
