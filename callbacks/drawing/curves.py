"""Draw line plots and heat maps in the common style of all figures."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_modules.interfaces import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKED = 40
"""Lines with at most this number of points are drawn with markers."""
MANY = 4
"""If a figure has at least this number of panels, they are arranged in two rows, to stay legible on a page."""


def line_panels(count: int, width: float = 4.8, height: float = 3.8, **shared: Any) -> "tuple[Figure, list[Axes]]":
    """Make a figure of panels in one row, or in two if there are many. Panels have a faint grid and no frame.

    Args:
        count: number of panels.
        width: width of a panel, in inches.
        height: height of a row, in inches.
        shared: Matplotlib's arguments `sharex` and `sharey`, for axes that the panels share.
    """
    from matplotlib.figure import Figure

    rows = 1 if count < MANY else 2
    columns = -(-count // rows)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for panel in panels[count:]:
        panel.remove()
    panels = panels[:count]
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.tick_params(labelbottom=True)  # also on panels above other panels
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def draw_table(table: Table) -> "Figure":
    """Plot a table as a heat map or as lines.

    A figure with lines has one panel for each plotted column. A panel has one line for each combination of values in
    the text columns.

    On a logarithmic axis, values below a millionth of the largest value are left out. Lines with many points have no
    markers.
    """
    import pandas as pd

    columns = pd.DataFrame(table.columns)
    if table.kind == "map":
        return _draw_map(columns, table)
    numbers = list(columns.select_dtypes("number"))
    text = [name for name in columns if name not in numbers]
    drawn = pd.DataFrame(table.drawn if table.drawn is not None else columns[numbers[1:]])
    x = columns[numbers[0]]
    lines = columns[text].astype(str).agg(", ".join, axis=1) if text else pd.Series("", index=columns.index)
    figure, panels = line_panels(len(drawn.columns), sharex=True)
    for panel, name in zip(panels, drawn, strict=True):
        for line in lines.unique():
            values = drawn[name][lines == line]
            shown = values.where(values > 1e-6 * drawn[name].max()) if name in table.logarithmic else values
            label = (table.labels or {}).get(line, line)
            style = {"linewidth": 0, "markersize": 3} if table.kind == "points" else {"linewidth": 1.2}
            marker = "." if table.kind == "points" or len(shown) <= MARKED else None
            panel.plot(x[lines == line], shown, marker=marker, label=label, **style)
        panel.set(xlabel=numbers[0], ylabel=name)
        if name in table.logarithmic:
            panel.set_yscale("log")
        elif table.kind == "points":
            panel.set_aspect("equal", adjustable="datalim")
        else:
            panel.set_ylim(bottom=min(0.0, np.nanmin(drawn[name])))
        if numbers[0] in table.logarithmic:
            panel.set_xscale("log")
    if text:
        panels[0].legend(fontsize=8, frameon=False)
    if table.title:
        figure.suptitle(table.title, fontsize=10, x=0.01, ha="left")
    return figure


def _draw_map(columns: "pd.DataFrame", table: Table) -> "Figure":
    """Draw heat maps whose axes are the first two columns: one map for each further column."""
    x, y, *values = columns
    figure, panels = line_panels(len(values))
    for panel, name in zip(panels, values, strict=True):
        grid = columns.pivot(index=y, columns=x, values=name)
        colours = panel.pcolormesh(grid.columns, grid.index, grid.to_numpy(), shading="nearest", rasterized=True)
        figure.colorbar(colours, ax=panel, label=name)
        panel.set(xlabel=x, ylabel=y)
        panel.grid(False)
        if x in table.logarithmic:
            panel.set_xscale("log")
        if y in table.logarithmic:
            panel.set_yscale("log")
    figure.suptitle(table.title, fontsize=10, x=0.01, ha="left")
    return figure
