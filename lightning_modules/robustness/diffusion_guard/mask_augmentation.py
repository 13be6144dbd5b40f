"""Masks of what an editor keeps, shrunk and deformed at random: protection then holds for masks that others draw.

A kept region K with A pixels has rho = sqrt(pi A / 2). In each of J rounds, J ~ U{1 ... 14}, every vertex of its outer
contour moves by offsets of at most e pixels, smoothed along the contour; a vertex that left the region returns to
the contour's nearest vertex, and the polygon is filled again:

    e = floor(1.1 U(0, rho)),   (dx, dy) ~ U{-e ... e}^2, filtered by a Gaussian of width 0.1 rho.

rho is that of the authors' code; the radius of the circle of the same area is smaller by pi / sqrt(2). The regions of
an image are deformed apart, and what is kept is their union.

The contour runs along the region's own pixels, with vertices where its direction changes, from scikit-image's marching
squares; the code has it from OpenCV, which begins elsewhere on the same contour. Polygons are filled by Pillow together
with their outlines: on average as many pixels as OpenCV fills, of which one in 200, at slanted edges, is another.

Source: Choi et al., DiffusionGuard: A Robust Defense Against Malicious Diffusion-based Image Editing, ICLR 2025, arXiv
2410.05694, Algorithm 1.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter1d
from skimage.measure import find_contours

Mask = NDArray[np.bool_]
Augmentation = Literal["contour", "single", "global"]


def outer_contour(region: Mask) -> NDArray[np.int64]:
    """Find the outer contour of a region's largest part, pixels that touch at a corner being connected.

    Args:
        region: `[H, W]`.

    Returns:
        Its vertices, `[N, 2]`: rows and columns of pixels of the region; empty for an empty one.
    """
    padded = np.pad(region, 1)
    lines = find_contours(padded.astype(float), 0.5, fully_connected="high")
    if not lines:
        return np.zeros((0, 2), dtype=np.int64)
    line = max(lines, key=lambda each: abs(_area(each)))[:-1]
    low, high = np.floor(line).astype(np.int64), np.ceil(line).astype(np.int64)
    inside = np.where(padded[low[:, 0], low[:, 1]][:, None], low, high) - 1
    inside = (
        inside[np.any(inside != np.roll(inside, 1, axis=0), axis=1)]
        if len(np.unique(inside, axis=0)) > 1
        else inside[:1]
    )
    before, after = inside - np.roll(inside, 1, axis=0), np.roll(inside, -1, axis=0) - inside
    turns = np.any(before != after, axis=1)
    return inside[turns] if turns.any() else inside


def _area(line: NDArray[np.float64]) -> float:
    """Compute the signed area inside a closed line, `[N, 2]`."""
    row, column = line.T
    return float(np.dot(row[:-1], column[1:]) - np.dot(row[1:], column[:-1])) / 2


def filled(contour: NDArray[np.int64], shape: tuple[int, ...]) -> Mask:
    """Fill a polygon and its outline, as a mask `[H, W]` of `shape`."""
    canvas = Image.new("1", (shape[1], shape[0]))
    points = [(int(column), int(row)) for row, column in contour]
    draw = ImageDraw.Draw(canvas)
    if len(points) > 2:
        draw.polygon(points, fill=1)
    draw.line([*points, points[0]], fill=1)  # of the edges a fill alone takes only a part
    return np.array(canvas)


def radius(region: Mask) -> float:
    """Compute rho, in pixels."""
    return math.sqrt(region.sum() * math.pi / 2)


def deformed(region: Mask, largest_offset: int, width: float, random: np.random.Generator) -> Mask:
    """Deform a region once, by a round of Algorithm 1; one without a contour stays as it is.

    Args:
        region: K, `[H, W]`.
        largest_offset: e, in pixels.
        width: width of the Gaussian along the contour, in vertices.
        random: draws the offsets.
    """
    contour = outer_contour(region)
    if len(contour) == 0:
        return region
    offsets = random.integers(-largest_offset, largest_offset, size=contour.shape, endpoint=True)
    # Integers in, integers out: as in the code, the filtered offsets are cut off towards zero.
    offsets = gaussian_filter1d(offsets, width, axis=0)
    moved = np.clip(contour + offsets, 0, np.array(region.shape) - 1)
    outside = ~region[moved[:, 0], moved[:, 1]]
    distance = np.square(moved[outside, None] - contour[None]).sum(axis=2)
    moved[outside] = contour[distance.argmin(axis=1)]
    return filled(moved, region.shape)


def shrunk(
    region: Mask, random: np.random.Generator, strength: float = 1.1, max_rounds: int = 15, smoothness: float = 0.1
) -> Mask:
    """Draw a random version of one region, by Algorithm 1.

    Args:
        region: K, `[H, W]`.
        random: draws e, J and the offsets.
        strength: zeta, the factor in e.
        max_rounds: J is below it.
        smoothness: s, width of the Gaussian over rho.
    """
    rho = radius(region)
    largest_offset = int(strength * random.uniform(0, rho))
    for _ in range(int(random.uniform(1, max_rounds))):
        region = deformed(region, largest_offset, smoothness * rho, random)
    return region


def draw_kept(regions: Mask, augmentation: Augmentation, random: np.random.Generator) -> Mask:
    """Draw a region that an editor might keep.

    Args:
        regions: `[R, H, W]`, the regions to protect. Empty ones, which fill up a batch, take no part in what is drawn.
        augmentation: `contour` deforms each region at random, `single` keeps their union as it is, `global` keeps the
            whole image.
        random: draws what `contour` needs.

    Returns:
        `[H, W]`.
    """
    if augmentation == "global":
        return np.ones(regions.shape[1:], dtype=bool)
    if augmentation == "contour":
        regions = np.array([shrunk(region, random) if region.any() else region for region in regions])
    union: Mask = np.any(regions, axis=0)
    return union
