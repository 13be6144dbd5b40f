"""Draw the figures of a sweep: lines for one varied key, heat maps for two varied keys, and fitted power laws.

Runs without a finite value are marked at the upper edge of the panel. A cross means that the run diverged. A triangle
means that the value is missing for a different reason, for example because a threshold was never reached.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figures import MAX_METRICS, NAMES, colour, legend_above, panels, save_with_note
from experiments.method_table import Places, swept_keys
from experiments.results import BEST_EPOCH, DIVERGED, Result, Summary, arrow, summarise
from experiments.run_request import Experiment
from experiments.sweeps.fits import Fit, line_of
from experiments.sweeps.variations import to_number

NOTE = "x: diverged, ▲: not finite, in so many of the seeds"
MOST_TICKS = 8
MOST_NUMBERS = 64
"""Maximum number of cells in a heat map for which numbers are shown in the cells."""
DECADES = 100.0
"""If the largest mean divided by the smallest exceeds this ratio, the colour scale of a heat map is logarithmic."""


def in_place(values: Sequence[str]) -> tuple[dict[str, float], bool]:
    """Map the values of a key to positions on an axis, and return whether the positions equal the values."""
    numbers = {value: to_number(value) for value in dict.fromkeys(values)}
    if all(math.isfinite(each) for each in numbers.values()):
        return numbers, True
    return {value: float(place) for place, value in enumerate(numbers)}, False


def draw_lines(
    results: Sequence[Result], experiments: Sequence[Experiment], path: Path, words: Mapping[str, str] = NAMES
) -> None:
    """Draw one panel per metric, with one line per config over the values of the varied key.

    Args:
        results: results of all runs.
        experiments: experiments of these runs.
        path: output file.
        words: display names of keys, metrics and labels of configs. Names without a display name are kept.
    """
    [key] = swept_keys(experiments)
    positions, numeric = in_place([dict(each.setting)[key] for each in experiments])
    lines: dict[str, list[dict[float, str]]] = {}
    for each in experiments:
        lines.setdefault(line_of(each, key), [{}])[0][positions[dict(each.setting)[key]]] = each.title

    def draw_axis(ax: Any) -> None:
        _axis(ax, positions, numeric)
        ax.set_xlabel(words.get(key, key), fontsize=9)

    _draw_panels(results, lines, path, draw_axis, words)


def draw_table(results: Sequence[Result], place: Places, path: Path) -> None:
    """Draw one panel per metric, with the settings next to each other and one colour per method.

    Args:
        results: results of all runs.
        place: method and setting of each config.
        path: output file.
    """
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*place.values(), strict=True))
    lines: dict[str, list[dict[float, str]]] = {}
    for i, row in enumerate(rows):
        titles = {columns.index(column): title for title, (own, column) in place.items() if own == row}
        beside = (i - (len(rows) - 1) / 2) * 0.08
        lines[row] = [{x + beside: titles[x] for x in group} for group in _connect(columns, sorted(titles))]

    def draw_axis(ax: Any) -> None:
        ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=8)

    _draw_panels(results, lines, path, draw_axis, width=1.6 + 0.55 * len(columns))


def _draw_panels(
    results: Sequence[Result],
    lines: Mapping[str, Sequence[Mapping[float, str]]],
    path: Path,
    draw_axis: Callable[[Any], None],
    words: Mapping[str, str] = NAMES,
    width: float = 4.2,
) -> None:
    """Draw one panel per metric. Dots show the values of individual seeds, and error bars show mean ± std.

    Args:
        results: results of all runs.
        lines: for each label, groups of points that a line connects. A group maps positions to titles of experiments.
        path: output file.
        draw_axis: function that draws the horizontal axis of a panel.
        words: display names of metrics and labels.
        width: width of a panel, in inches.
    """
    metrics = _metrics(results)
    figure, axes = panels(max(len(metrics), 1), width, height=3.0)
    lost = False
    for metric, ax in zip(metrics, axes, strict=False):
        shown = [result for result in results if result.metric == metric]
        found = {summary.config: summary for summary in summarise(shown)}
        for row, (label, groups) in enumerate(lines.items()):
            for group in groups:
                points = [(x, found[group[x]]) for x in sorted(group) if group[x] in found]
                positions = {title: x for x, title in group.items()}
                for result in shown:
                    if result.config in positions and math.isfinite(result.value):
                        dot = {"alpha": 0.35, "markersize": 3, "markeredgewidth": 0}
                        ax.plot(positions[result.config], result.value, "o", color=colour(row), **dot)
                drawn = [(x, s.mean, 0.0 if math.isnan(s.std) else s.std) for x, s in points if s.seeds]
                if drawn:
                    at, mean, std = zip(*drawn, strict=True)
                    bar = {"marker": "o", "markersize": 4.5, "linewidth": 1.2, "capsize": 3}
                    ax.errorbar(at, mean, yerr=std, color=colour(row), **bar)
                for x, summary in points:
                    lost |= _mark(ax, x, summary, colour(row), row)
            ax.plot([], [], color=colour(row), marker="o", markersize=4.5, linewidth=1.2, label=words.get(label, label))
        draw_axis(ax)
        ax.set_title(words.get(metric, metric + arrow(metric)), fontsize=10, loc="left", pad=14)
        ax.grid(alpha=0.3)
    if len(lines) > 1:
        legend_above(figure, axes[0])
    save_with_note(figure, "dots: seeds; bars: mean ± std over them" + (f"; {NOTE}" if lost else ""), path)


def _connect(columns: Sequence[str], numbers: Sequence[int]) -> list[list[int]]:
    """Group columns that differ only in the value of one key; a line connects the points of a group."""
    groups: dict[str, list[int]] = {}
    for each in numbers:
        key, _, _ = columns[each].rpartition(" ")
        groups.setdefault(key or columns[each], []).append(each)
    return list(groups.values())


def _metrics(results: Sequence[Result]) -> list[str]:
    names = dict.fromkeys(r.metric for r in results if not r.metric.startswith(BEST_EPOCH))
    useful = [name for name in names if any(math.isfinite(r.value) and r.value for r in results if r.metric == name)]
    return [name for name in useful if name == DIVERGED or not name.startswith(DIVERGED)][:MAX_METRICS]


def _mark(ax: Any, x: float, summary: Summary, own: str, row: int) -> bool:
    """Draw marks above a point for seeds without a finite value, and return whether there are such seeds."""
    counts = {"x": summary.diverged, "^": summary.not_finite}
    for shape, count in counts.items():
        if count:
            y = 1.02 + 0.05 * row
            upper = ax.get_xaxis_transform()
            ax.plot(x, y, shape, color=own, transform=upper, clip_on=False, markersize=5, markeredgewidth=1.6)
            if count < summary.runs:
                ax.annotate(f"{count}/{summary.runs}", (x, y), (4, -2), xycoords=upper, textcoords="offset points",
                            fontsize=7, color=own, annotation_clip=False)  # fmt: skip
    return any(counts.values())


def _axis(ax: Any, places: Mapping[str, float], numeric: bool) -> None:
    values = sorted(places.values())
    if not numeric:
        ax.set_xticks(list(places.values()), list(places), rotation=30, ha="right", fontsize=8)
    elif values[0] > 0 and values[-1] >= 10 * values[0]:
        ax.set_xscale("log")
        if len(values) <= MOST_TICKS:
            ax.set_xticks(values, sorted(places, key=places.__getitem__))
            ax.minorticks_off()


def draw_heat_maps(
    results: Sequence[Result], experiments: Sequence[Experiment], path: Path, words: Mapping[str, str] = NAMES
) -> None:
    """Draw one heat map per metric and config, with the means over seeds for all values of the two varied keys.

    The colour scale is logarithmic if all means are positive and span two decades. If several configs are compared, an
    additional panel per metric shows which config is best.

    Args:
        results: results of all runs.
        experiments: experiments of these runs.
        path: output file.
        words: display names of keys, metrics and labels of configs. Names without a display name are kept.
    """
    from matplotlib.colors import LogNorm, Normalize

    down, across = swept_keys(experiments)
    rows, columns = (_sort([dict(each.setting)[key] for each in experiments]) for key in (down, across))
    labels = list(dict.fromkeys(each.label for each in experiments))
    metrics = _metrics(results)
    shown = [(metric, label) for metric in metrics for label in labels][:MAX_METRICS]
    size = 1.4 + 0.48 * len(columns), 1.1 + 0.34 * len(rows)
    compared = [metric for metric in metrics if len(labels) > 1 and arrow(metric)][: MAX_METRICS - len(shown)]
    figure, axes = panels(max(len(shown) + len(compared), 1), width=max(3.4, size[0]), height=max(2.4, size[1]))
    grids: dict[str, dict[str, Any]] = {metric: {} for metric in metrics}
    title = {(e.label, dict(e.setting)[down], dict(e.setting)[across]): e.title for e in experiments}
    for (metric, label), ax in zip(shown, axes, strict=False):
        found = {each.config: each for each in summarise([r for r in results if r.metric == metric])}
        means = [each.mean for each in found.values() if each.seeds]
        lowest, highest = min(means, default=0.0), max(means, default=1.0)
        scale = (LogNorm if 0 < DECADES * lowest <= highest else Normalize)(lowest, highest)
        values = np.full((len(rows), len(columns)), math.nan)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                summary = found.get(title.get((label, row, column), ""))
                if summary is None:
                    continue
                values[i, j] = summary.mean
                text = _short(summary.mean) if summary.seeds and values.size <= MOST_NUMBERS else ""
                text += "x" * bool(summary.diverged) + "▲" * bool(summary.not_finite)
                dark = summary.seeds and lowest < highest and scale(summary.mean) < 0.6
                ax.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        grids[metric][label] = values
        image = ax.imshow(values, norm=scale, cmap="viridis", aspect="auto", origin="lower")
        figure.colorbar(image, ax=ax)
        name = words.get(metric, metric + arrow(metric))
        ax.set_title((f"{words.get(label, label)}\n" if len(labels) > 1 else "") + name, fontsize=9, loc="left")
    for metric, ax in zip(compared, axes[len(shown) :], strict=False):
        _draw_best(ax, {words.get(label, label): grid for label, grid in grids[metric].items()}, metric, words)
    for ax in axes[: len(shown) + len(compared)]:
        ax.set_facecolor("0.9")
        ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=8)
        ax.set_yticks(range(len(rows)), rows, fontsize=8)
        ax.set_xlabel(words.get(across, across), fontsize=9)
        ax.set_ylabel(words.get(down, down), fontsize=9)
    note = "mean over seeds"
    if any(each.diverged or each.not_finite for each in summarise(results)):
        note += "; x: some or all diverged, ▲: not finite"
    if len(shown) < len(metrics) * len(labels):
        note += f"; the first {len(shown)} of {len(metrics) * len(labels)} panels"
    save_with_note(figure, note, path)


def _short(value: float) -> str:
    """Format a number with at most six characters."""
    if value and abs(value) < 0.01:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value / 1000:.3g}k" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _draw_best(ax: Any, grids: Mapping[str, Any], metric: str, words: Mapping[str, str]) -> None:
    """Colour each cell by the config with the best mean. A cell is empty if any config has no mean there.

    Args:
        ax: matplotlib axes on which to draw.
        grids: means `[rows, columns]` by config.
        metric: name of the metric. It determines whether smaller values are better.
        words: display names of metrics.
    """
    from matplotlib.colors import ListedColormap

    means = np.stack(list(grids.values()))
    best = (means if "↓" in arrow(metric) else -means).argmin(axis=0)  # index of the first NaN, if there is one
    shown = np.ma.masked_array(best, mask=~np.isfinite(means).all(axis=0))
    colours = ListedColormap([colour(row) for row in range(len(grids))])
    ax.imshow(shown, vmin=-0.5, vmax=len(grids) - 0.5, cmap=colours, aspect="auto", origin="lower")
    for row, label in enumerate(grids):
        ax.plot([], [], "s", color=colour(row), label=label)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.32), fontsize=8, frameon=False)
    ax.set_title(f"best {words.get(metric, metric)}", fontsize=10, loc="left")


def _sort(values: Sequence[str]) -> list[str]:
    places, _ = in_place(values)
    return sorted(places, key=places.__getitem__)


def draw_exponents(fits: Sequence[Fit], path: Path) -> None:
    """Draw one log-log panel per key and metric, with the values of all seeds and the fitted power laws.

    Args:
        fits: fits to draw. At least one fit must have succeeded.
        path: output file.
    """
    shown = list(dict.fromkeys((each.key, each.metric) for each in fits if each.law))[:MAX_METRICS]
    figure, axes = panels(len(shown), width=4.4, height=3.4)
    left_out = False
    for (key, metric), ax in zip(shown, axes, strict=False):
        ax.set(xscale="log", yscale="log", xlabel=key)
        for row, fit in enumerate(each for each in fits if (each.key, each.metric) == (key, metric)):
            used = fit.law.used if fit.law else ()
            for x, own in fit.points.items():
                style = {"alpha": 0.5} if x in used else {"markerfacecolor": "white"}
                positive = [each.value for each in own if math.isfinite(each.value) and each.value > 0]
                ax.plot([x] * len(positive), positive, "o", color=colour(row), markersize=4, **style)
                left_out |= x not in used
                for summary in summarise(own):
                    _mark(ax, x, summary, colour(row), row)
            label = f"{fit.line}: no fit"
            if fit.law:
                label = f"{fit.line}: {fit.law.exponent:.3g} ± {fit.law.error:.1g}"
                ends = np.array([used[0], used[-1]])
                ax.plot(ends, fit.law(ends), color=colour(row), linewidth=1.4)
            ax.plot([], [], color=colour(row), label=label)
        ax.set_title(metric, fontsize=10, loc="left", pad=14)
        ax.legend(fontsize=8, frameon=False)
        ax.grid(alpha=0.3)
    note = "dots: seeds; lines: exponent ± standard error"
    note += f"; white dots: left out of the fit; {NOTE}" if left_out else ""
    save_with_note(figure, note, path)
