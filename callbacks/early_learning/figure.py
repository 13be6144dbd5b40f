"""Plot the fit to the given labels, the fitted curve and the memorisation of each category."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from callbacks.drawing.curves import line_panels
from callbacks.early_learning.counts import category_shares, overall_shares
from callbacks.early_learning.curve import learning_curve
from callbacks.early_learning.history import CategoryHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 20
Floats = NDArray[np.float64]


def draw_early_learning(history: CategoryHistory, fit_epochs: Sequence[float], names: Sequence[str]) -> "Figure":
    """Draw a line for each category; for more than 20 categories, draw their mean and the 10 % to 90 % quantiles.

    Args:
        history: history of at least one epoch.
        fit_epochs: epoch of each record in the history.
        names: names of the K categories.

    Returns:
        A figure with a panel for the fit to the given labels and, if true labels are known, a panel for memorisation.
    """
    from matplotlib.ticker import MaxNLocator

    epochs, fits, ended_at = history.epochs, history.records.numpy(), history.ended_at.numpy()
    memorized = category_shares(history.counts, history.per_pixel)["memorized"].numpy()
    overall = {name: share.numpy() for name, share in overall_shares(history.counts, history.per_pixel).items()}
    with_truth = bool(np.isfinite(overall["memorized"]).any() or np.isfinite(overall["fit_true"]).any())
    many = len(names) > MOST_LINES
    columns = 2 if many else min(6, -(-len(names) // 4) + 2)
    rows = 2 if many else -(-(len(names) + 2) // columns)
    width = 5.75 if with_truth else 6.8
    figure, panels = line_panels(1 + with_truth, width, 4.4 + 0.18 * rows, sharex=True, sharey=True)
    for panel in panels:
        panel.set(xlabel="epoch", xlim=(-0.5, epochs[-1] + 0.5), ylim=(0, 1.02))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    panels[0].set(
        title="Fit to the given labels and end of early learning",
        ylabel="IoU with the given labels" if history.per_pixel else "fraction predicted as given",
    )
    if many:
        _band(panels[0], fit_epochs, fits, "C0")
        panels[0].plot(fit_epochs, np.nanmean(fits, axis=1), color="C0", marker=".", label="mean over categories")
        ended = (ended_at[None] >= 0) & (ended_at[None] <= np.array(epochs)[:, None])
        ended_style: Any = {"color": "0.35", "linestyle": ":", "label": "fraction of categories that have ended"}
        panels[0].step(epochs, ended.mean(1), where="post", **ended_style)
    else:
        _lines(panels[0], fit_epochs, fits, history.curves.numpy(), ended_at, names)

    if with_truth:
        panels[1].set(title="Memorisation of false labels", ylabel="fraction")
        if many:
            _band(panels[1], epochs, memorized, "C3")
        else:
            for category, color in enumerate(_colors(len(names))):
                panels[1].plot(epochs, memorized[:, category], color=color, linewidth=0.9, alpha=0.7)
            panels[1].plot([], [], color="0.3", linewidth=0.9, alpha=0.7, label="of a category")
        style: Any = {"linewidth": 2.2, "marker": "o" if len(epochs) == 1 else None}
        panels[1].plot(epochs, overall["fit_given"], color="0.55", label="fit to the given labels", **style)
        panels[1].plot(epochs, overall["fit_true"], color="black", label="fit to the true labels", **style)
        panels[1].plot(epochs, overall["memorized"], color="C3", label="false labels memorised", **style)
        if np.isfinite(overall["label_quality"]).any():
            labels = "training labels, fit to the true ones"
            panels[1].plot(epochs, overall["label_quality"], color="black", linestyle="--", label=labels, **style)
        panels[1].tick_params(labelleft=True)
    for panel, ncols in zip(panels, (columns, 2), strict=False):
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=ncols, fontsize=8, frameon=False)
    return figure


def _colors(num_categories: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    palette = colormaps["tab10" if num_categories <= 10 else "tab20"]
    return [palette(category) for category in range(num_categories)]


def _lines(
    panel: "Axes",
    fit_epochs: Sequence[float],
    fits: Floats,
    curves: Floats,
    ended_at: NDArray[np.int64],
    names: Sequence[str],
) -> None:
    per_record = fit_epochs[1] - fit_epochs[0] if len(fit_epochs) > 1 else 1.0
    for category, (name, color) in enumerate(zip(names, _colors(len(names)), strict=True)):
        panel.plot(fit_epochs, fits[:, category], ".-", color=color, markersize=4, linewidth=0.8, label=name)
        a, b, c, start, num_records = curves[category]
        if np.isfinite(a):
            # The fit placed the L records from `start` on at L equally spaced times, from 0 to L * per_record. The plot
            # moves them back to their true epochs.
            t = np.linspace(0, num_records * per_record, 200)
            at = fit_epochs[int(start)] + t * (num_records - 1) / num_records
            panel.plot(at, learning_curve(t, a, b, c), color=color, linestyle="--", linewidth=1.2)
        if ended_at[category] >= 0:
            # stack the markers of categories whose early learning ends at the same epoch
            rank = int((ended_at[:category] == ended_at[category]).sum())
            panel.plot(ended_at[category], 0.03 + 0.035 * rank, "v", color=color, markersize=6, zorder=3)
    for epoch in np.unique(ended_at[ended_at >= 0]):
        panel.axvline(epoch, color="0.3", linewidth=0.8, linestyle=":", zorder=1)
    panel.plot([], [], "--", color="0.3", label="fitted curve")
    panel.plot([], [], "v", color="0.3", label="early learning ends")


def _band(panel: "Axes", x: Sequence[float], values: Floats, color: str) -> None:
    known = np.isfinite(values).any(axis=1)
    low, high = np.nanquantile(values[known], [0.1, 0.9], axis=1)
    label = "10-90 % of categories"
    panel.fill_between(np.asarray(x)[known], low, high, color=color, alpha=0.2, linewidth=0, label=label)
