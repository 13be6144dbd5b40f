"""Draw image grids: each row shows one image, each column one quantity, such as the input, the output or the mask."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from lightning_modules.interfaces import IGNORED, ImageColumn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 1.5
MOST_COLUMNS = 8  # side by side; further columns are placed in blocks below
MOST_NAMES = 10  # in the legend
OUTLINE, MARKED = "C1", "C3"  # colours


def draw_image_grid(
    columns: Mapping[str, Tensor | ImageColumn],
    class_names: Sequence[str] | None = None,
    title: str = "",
    most_rows: int | None = None,
    cell: float = CELL,
    side_by_side: bool = False,
) -> "Figure":
    """Draw a grid with a row for each image and a column for each name, or the reverse.

    Segmentation masks are overlaid in colour on the images of the first column. The background (0) is transparent, and
    ignored pixels (255) are white. A legend names the categories. In columns of differences, grey means 0. The scale of
    such a column is set by its largest difference, which is written above the column. Regions are outlined on all
    images, except if a region covers a whole image. A line of text above the grid explains the outlines.

    Args:
        columns: columns by name, see `ImageColumn`. The first column must contain images. If there are no images, only
            the title is drawn.
        class_names: names of the K classes. None shows class indices.
        title: line above the grid.
        most_rows: maximum number of rows. None draws all rows.
        cell: width of an image, in inches.
        side_by_side: whether images have a column each, and names a row each.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = first_rows(columns, most_rows)
    regions = {name: shown.pop(name).values for name in list(shown) if shown[name].values.dtype == torch.bool}
    background = next(iter(shown.values())).values
    if not len(background):
        figure = Figure(figsize=(5, 1))
        figure.text(0.5, 0.5, title, ha="center", va="center")
        return figure
    masks = [column.values for column in shown.values() if not column.values.is_floating_point()]
    present = sorted({int(k) for mask in masks for k in mask.unique()} - {0, IGNORED})
    colours = _colours(present[-1] if present else 0)
    rows, names = len(background), len(shown)
    lines, beside = (names, rows) if side_by_side else (rows, names)  # of a block, and of panels side by side
    blocks = -(-beside // (max(1, int(MOST_COLUMNS * CELL / cell)) if side_by_side else MOST_COLUMNS))
    across = -(-beside // blocks)
    captions = 0.18 * max((text.count("\n") + 1 for each in shown.values() for text in each.captions), default=0)
    relative = [column.values.shape[-2] / column.values.shape[-1] for column in shown.values()]
    if side_by_side:
        heights = [
            cell * each + 0.1 + captions * bool(column.captions)
            for each, column in zip(relative, shown.values(), strict=True)
        ] * blocks
    else:  # those of the first column of each block
        heights = [cell * each + 0.1 + captions for each in relative[::across] for _ in range(rows)]
    size = (
        across * (cell + 0.1),
        sum(heights) + (0.3 * bool(title) if side_by_side else 0.3 + 0.3 * blocks) + 0.4 * bool(present),
    )
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines * blocks, across, squeeze=False, height_ratios=heights)
    places = panels.reshape(blocks, lines, across).swapaxes(1, 2).reshape(-1, lines)  # [beside, lines], and unused ones
    for unused in places[beside:].flat:
        unused.remove()
    of_name = places[:beside].T if side_by_side else places[:beside]
    outlined = []
    for own, (name, column) in zip(of_name, shown.items(), strict=True):
        pictures, scale = _pictures(column if column.values.is_floating_point() else ImageColumn(background))
        if side_by_side:
            for panel in own[::across]:
                panel.set_ylabel(name + scale, fontsize=9)
        else:
            own[0].set_title(name + scale, fontsize=9)
        for row, (panel, picture) in enumerate(zip(own, pictures, strict=True)):
            panel.set(xticks=[], yticks=[])
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if not column.values.is_floating_point():
                panel.imshow(colours[column.values[row].numpy()], interpolation="nearest")
            if column.captions:
                marked = bool(column.marked) and column.marked[row]
                panel.set_xlabel(column.captions[row], fontsize=8, labelpad=2, color=MARKED if marked else "black")
            for region, inside in regions.items():
                if inside[row].any() and not inside[row].all():
                    panel.contour(inside[row].float().numpy(), levels=[0.5], colors=OUTLINE, linewidths=0.8)
                    outlined.append(region)
    if note := title or (f"outlined: {outlined[0]}" if outlined else ""):
        figure.suptitle(note, fontsize=9, color=OUTLINE if outlined else "black")
    patches = [
        Patch(color=colours[k][:3], label=str(k) if class_names is None else class_names[k])
        for k in present[:MOST_NAMES]
    ]
    if patches:
        ncols = min(len(patches), across)
        figure.legend(handles=patches, loc="outside lower center", ncols=ncols, fontsize=8, frameon=False)
    return figure


def first_rows(columns: Mapping[str, Tensor | ImageColumn], most_rows: int | None) -> dict[str, ImageColumn]:
    """Move the first `most_rows` rows of all columns to the CPU; if `most_rows` is None, move all rows."""
    kept = {}
    for name, column in columns.items():
        column = column if isinstance(column, ImageColumn) else ImageColumn(column)
        captions, marked = column.captions[:most_rows], column.marked[:most_rows]
        kept[name] = column._replace(values=column.values[:most_rows].cpu(), captions=captions, marked=marked)
    return kept


def num_rows(columns: Mapping[str, ImageColumn]) -> int:
    """Return the number of images in the columns of a grid."""
    return len(next(iter(columns.values())).values)


def concatenate_rows(batches: Sequence[Mapping[str, ImageColumn]], whole: bool = False) -> dict[str, ImageColumn]:
    """Concatenate the rows of several batches; images of different sizes are centre-cropped to the smallest size.

    Args:
        batches: columns of each batch, by name. Columns that some batch lacks are left out of the result.
        whole: pad images of different sizes with white to the largest size, instead of cropping them.
    """
    chosen = max if whole else min
    columns = {}
    for name in (name for name in batches[0] if all(name in batch for batch in batches)):
        parts = [batch[name] for batch in batches]
        sizes = [part.values.shape[-2:] for part in parts]
        height, width = (chosen(sides) for sides in zip(*sizes, strict=True))
        values = []
        for part, (own_height, own_width) in zip(parts, sizes, strict=True):
            top, left = int((height - own_height) / 2), int((width - own_width) / 2)  # negative numbers crop
            around = left, width - own_width - left, top, height - own_height - top
            values.append(pad(part.values, around, value=1.0 if part.values.is_floating_point() else IGNORED))
        captions = [caption for part in parts for caption in part.captions]
        marked = [mark for part in parts for mark in part.marked]
        columns[name] = parts[0]._replace(values=torch.cat(values), captions=captions, marked=marked)
    return columns


def _colours(largest: int) -> NDArray[np.float64]:
    """Return a table of colours `[256, 4]` for the categories from 0 to `largest`."""
    from matplotlib import colormaps

    palette = colormaps["tab10" if largest <= 10 else "tab20"]
    colours = np.zeros((IGNORED + 1, 4))
    for k in range(1, largest + 1):
        colours[k] = (*palette((k - 1) % palette.N)[:3], 0.75)
    colours[IGNORED] = 1.0
    return colours


def _pictures(column: ImageColumn) -> tuple[NDArray[np.float64], str]:
    """Convert colour images to `[n, H, W, 3]`, and grey images to `[n, H, W]`, with values in [0, 1].

    For a column of differences, also return the scale as text.
    """
    values, scale = column.values.double(), ""
    if column.difference:
        largest = float(values.abs().max())
        values, scale = 0.5 + values / (2 * largest or 1), f"\n±{largest:.2g}"
    values = values.movedim(1, -1) if values.shape[1] == 3 else values.mean(dim=1)
    return values.clamp(0, 1).numpy(), scale
