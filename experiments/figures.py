"""Draw the figures of a comparison: test metrics per seed, and training curves. Each config has one colour."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.files.whole_files import save_in_format
from experiments.results import BEST_EPOCH, Curves, Result, arrow, read_curves

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NAMES: Mapping[str, str] = {}
"""Display names of metrics, keys and configs."""
MAX_METRICS = 12
MAX_CURVES = 6
TITLES = {
    "train/fit_true": "accuracy on the true training labels",
    "train/memorized": "share of the false labels memorised",
}
"""Titles of metrics above their curves. The title of any other metric is its name."""


def draw_comparison(results: Sequence[Result], path: Path, words: Mapping[str, str] = NAMES) -> None:
    """Draw one panel per metric, with a dot for each seed, and with mean ± std over seeds.

    The panel of a metric also shows the metric's values at the best epoch, as rings.

    Args:
        results: results of all runs.
        path: output file.
        words: display names of metrics and configs. Metrics and configs without a display name keep their names.
    """
    import numpy as np

    configs = list(dict.fromkeys(result.config for result in results))
    metrics = list(dict.fromkeys(result.metric.removeprefix(BEST_EPOCH) for result in results))
    shown = metrics[:MAX_METRICS]
    best = any(result.metric.startswith(BEST_EPOCH) for result in results)
    height = 0.9 + (0.55 if best else 0.4) * len(configs)
    figure, axes = panels(len(shown), width=3.6, height=height, sharey=True)
    for metric, ax in zip(shown, axes, strict=False):
        for row, config in enumerate(configs):
            for prefix, style in (("", {}), (BEST_EPOCH, {"markerfacecolor": "white"})):
                own = [r for r in results if r.config == config and r.metric == prefix + metric]
                values = [r.value for r in own if math.isfinite(r.value)]
                if not prefix and (lost := sum(each.diverged for each in own)):
                    text = f"{lost} of {len(own)} diverged"
                    ax.annotate(text, (0.01, row + 0.35), xycoords=ax.get_yaxis_transform(), fontsize=7, color="0.35")
                if not values:
                    continue
                y = row + ((0.17 if prefix else -0.17) if best else 0)
                offsets = np.linspace(-0.1, 0.1, len(values)) if len(values) > 1 else np.zeros(1)
                ax.plot(values, y + offsets, "o", color=colour(row), alpha=0.55, markersize=4.5, zorder=2, **style)
                std = np.std(values, ddof=1) if len(values) > 1 else 0.0
                ax.errorbar(
                    np.mean(values), y, xerr=std, fmt="|", color=colour(row), ecolor=colour(row), markersize=13,
                    markeredgewidth=2, elinewidth=1.6, capsize=3.5, zorder=3,
                )  # fmt: skip
        ax.set_title(words.get(metric, metric + arrow(metric)), fontsize=10, loc="left")
        ax.set_yticks(range(len(configs)), [words.get(config, config) for config in configs])
        ax.set_ylim(len(configs) - 0.4, -0.6)
        ax.grid(axis="x", alpha=0.3)
        ax.margins(x=0.08)
    note = "one dot per seed; bar: mean ± std"
    if best:
        note += "; white dots: the best epoch's checkpoint"
    if len(metrics) > len(shown):
        note += f"; the first {len(shown)} of {len(metrics)} metrics"
    save_with_note(figure, note, path)


def draw_curves(
    metrics: Mapping[str, Sequence[Path]],
    path: Path,
    names: Sequence[str] = (),
    methods: Mapping[str, str] | None = None,
) -> bool:
    """Draw curves of the metrics that all configs log. A curve is the mean over seeds, with a band of ± std.

    Each method has one colour. The settings of a method differ in the lightness of this colour.

    Args:
        metrics: files `metrics.csv` of the runs, by config.
        path: output file.
        names: training and validation metrics to draw, in this order. If empty, the first `MAX_CURVES` metrics are
            drawn.
        methods: method of each config. None means that each config is a method.

    Returns:
        Whether a figure was drawn. It is false if the configs have no metric in common.
    """
    import pandas as pd

    curves = {config: [read_curves(file) for file in files] for config, files in metrics.items() if files}
    shared = shared_curves(curves)
    names = [name for name in names if name in shared] or shared[:MAX_CURVES]
    if not names:
        return False
    figure, axes = panels(len(names), width=3.6, height=2.5)
    colours = colours_of({config: (methods or {}).get(config, config) for config in curves})
    for name, ax in zip(names, axes, strict=False):
        for config, runs in curves.items():
            values = pd.DataFrame({seed: pd.Series(run[name]) for seed, run in enumerate(runs) if name in run})
            few = {"marker": "o", "markersize": 3.5} if len(values) < 5 else {}  # shows single points
            draw_mean(ax, values.sort_index(), color=colours[config], linewidth=1.6, label=config, **few)
        title = name.removesuffix("_epoch")
        ax.set_title(TITLES.get(title, title), fontsize=10, loc="left")
        ax.grid(alpha=0.3)
        ax.margins(x=0.02)
        ax.xaxis.get_major_locator().set_params(integer=True)
    legend_above(figure, axes[0])
    seeds = max(len(runs) for runs in curves.values())
    figure.supxlabel("epoch" + (f" (mean and ± std over {seeds} seeds)" if seeds > 1 else ""), fontsize=9)
    save_in_format(figure, path)
    return True


def draw_mean(ax: Any, values: "pd.DataFrame", **style: Any) -> None:
    """Draw the mean over the columns (seeds) of a table, with a band of ± std. Infinite values are left out."""
    finite = values.where(values.abs() < math.inf)
    mean, std = finite.mean(axis=1), finite.std(axis=1)
    ax.plot(mean.index, mean, **style)
    if values.shape[1] > 1:
        ax.fill_between(mean.index, mean - std, mean + std, color=style["color"], alpha=0.2, linewidth=0)


def shared_curves(curves: Mapping[str, Sequence[Curves]]) -> list[str]:
    """List the training and validation metrics that all configs have in common.

    Metrics of single steps are omitted. Metrics whose names end in a number are also omitted, because each belongs to a
    single class or level. Losses come last, because the losses of two methods may be different quantities.
    """
    columns = [{name for run in runs for name in run} for runs in curves.values()]
    shared = set.intersection(*columns) if columns else set()
    names = [
        name
        for name in shared
        if name.startswith(("train/", "val/")) and not name.endswith("_step") and not re.search(r"[/_]\d+$", name)
    ]
    losses = re.compile(r"loss|entropy")
    return sorted(names, key=lambda name: (bool(losses.search(name)), not name.startswith("val/"), name))


def panels(count: int, width: float, height: float, sharey: bool = False) -> tuple["Figure", list[Any]]:
    from matplotlib.figure import Figure

    columns = 2 if count in (2, 4) else min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns + 0.6, height * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes


def save_with_note(figure: "Figure", note: str, path: Path) -> None:
    """Write a figure with a note below its panels."""
    figure.supxlabel(note, fontsize=8, color="0.35")
    save_in_format(figure, path)


def legend_above(figure: "Figure", ax: Any) -> None:
    """Draw the legend of a panel above all panels, in as many columns as fit, at most four."""
    handles, names = ax.get_legend_handles_labels()
    widest = 0.6 + 0.085 * max(map(len, names), default=0)  # in inches
    columns = max(1, min(len(names), 4, int(figure.get_figwidth() / widest)))
    columns = math.ceil(len(names) / math.ceil(len(names) / columns)) if names else 1  # rows of equal length
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False)


def colour(number: int) -> str:
    return f"C{number}"


def colours_of(methods: Mapping[str, str]) -> dict[str, Any]:
    """Return the colour of each config: its method's colour, from light (first setting) to dark (last setting).

    If there is only one method, the colours of the settings are from a sequential colour map.

    Args:
        methods: method of each config.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    own = {name: [config for config, method in methods.items() if method == name] for name in methods.values()}
    found: dict[str, Any] = {}
    for number, configs in enumerate(own.values()):
        for place, config in enumerate(configs):
            share = place / max(1, len(configs) - 1)
            if len(own) == 1 and len(configs) > 1:
                found[config] = colormaps["viridis"](0.9 * share)
            elif len(configs) == 1:
                found[config] = colour(number)
            else:
                white = 0.65 * (1 - share)
                found[config] = tuple(white + (1 - white) * part * (1 - 0.3 * share) for part in to_rgb(colour(number)))
    return found
