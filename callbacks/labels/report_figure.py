"""Draw the training images with the worst labels of a label report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_modules.interfaces import UNVERIFIED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8
WRONG, RIGHT, UNKNOWN = "#c1272d", "#1f77b4", "0.6"
LONGEST = 16  # maximum number of characters in a line below an image
ARROW = "\N{RIGHTWARDS ARROW}"


def draw_worst_labels(
    image: NDArray[np.float32],
    worst: pd.DataFrame,
    num_labels: int,
    num_suspected: int,
    class_names: Sequence[str] | None = None,
) -> "Figure":
    """Draw a contact sheet. Below each image are its given label and, if it is different, the proposed label.

    The frame of an image is red if its given label is wrong, blue if the label is correct, and grey if the true label
    is unknown. If the true class differs from both labels, it is also written below the image. Images that belong to
    none of the classes (-1) are marked by a note.

    Args:
        image: images `[n, C, H, W]` in [0, 1], drawn in colour if C is 3, and otherwise as the channel mean in grey.
        worst: n rows of a label report, one per image.
        num_labels: number of scored labels.
        num_suspected: number of suspected labels.
        class_names: names of the K classes; None shows class indices.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    count = len(worst)
    rows = -(-count // COLUMNS)
    known = "clean_label" in worst
    captions = [_caption(worst.iloc[place], class_names) for place in range(count)]
    header = 0.8 if known else 0.5
    height = (1.4 + 0.14 * max(caption.count("\n") + 1 for caption in captions)) * rows + header  # in inches
    figure = Figure(figsize=(1.35 * COLUMNS, height))
    title = f"{num_suspected:,} of {num_labels:,} labels are suspected. The {count} worst: given {ARROW} proposed"
    figure.text(0.5, 1 - 0.15 / height, title, ha="center", va="top", fontsize=10)
    if known:
        frames = [
            Line2D([], [], color=color, linewidth=3, label=text)
            for color, text in ((WRONG, "the given label is wrong"), (RIGHT, "the given label is right"))
        ]
        above = (0.5, 1 - 0.33 / height)
        figure.legend(handles=frames, loc="upper center", bbox_to_anchor=above, ncols=2, fontsize=8, frameon=False)
    grid = figure.add_gridspec(
        rows, COLUMNS, left=0.02, right=0.98, top=1 - header / height, bottom=0.0, wspace=0.12, hspace=0.0
    )
    for place in range(count):
        row = worst.iloc[place]
        panel = figure.add_subplot(grid[place])
        pixels = image[place].transpose(1, 2, 0) if image.shape[1] == 3 else image[place].mean(axis=0)
        panel.imshow(pixels.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set(xticks=[], yticks=[], anchor="N")
        true = row.get("clean_label", UNVERIFIED)
        color = UNKNOWN if true == UNVERIFIED else WRONG if row["given"] != true else RIGHT
        for spine in panel.spines.values():
            spine.set(color=color, linewidth=2)
        below: Any = {"transform": panel.transAxes, "ha": "center", "va": "top"}
        panel.text(0.5, -0.05, captions[place], fontsize=8, linespacing=1.05, **below)
    return figure


def _caption(row: pd.Series, class_names: Sequence[str] | None) -> str:
    given, proposed = (_name(row[key], class_names) for key in ("given", "proposed"))
    separator = " " if len(given) + len(proposed) <= LONGEST else "\n"
    caption = given if row["given"] == row["proposed"] else f"{given}{separator}{ARROW} {proposed}"
    if (true := row.get("clean_label", UNVERIFIED)) not in (UNVERIFIED, row["given"], row["proposed"]):
        caption += f"\n(true: {_name(true, class_names)})"
    return caption


def _name(category: float, class_names: Sequence[str] | None) -> str:
    if category < 0:
        return "no class"
    name = str(int(category)) if class_names is None else class_names[int(category)]
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
