"""Write a list of runs as one HTML page with training curves, which loads nothing and has no scripts."""

from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

from experiments.results import Curves, read_curves, validation_metric

WIDTH, HEIGHT = 160, 48
"""Size of a curve in pixels."""
MOST_CURVES = 500
"""Maximum number of runs whose curves are drawn."""
HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Runs</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem; }
td, th { padding: 2px 10px 2px 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
polyline { fill: none; stroke: #0072b2; stroke-width: 1.5; }
</style>
"""


def page(header: Sequence[str], rows: Sequence[Sequence[str]], directories: Sequence[Path]) -> str:
    """Return a page with a row for each run: its cells, and the curve of its validation metric or training loss."""
    lines = [HEAD, "<table>", _row("th", [escape(name) for name in [*header, "curve"]])]
    for number, (cells, directory) in enumerate(zip(rows, directories, strict=True)):
        curve = _curve(directory) if number < MOST_CURVES else ""
        lines.append(_row("td", [*map(escape, cells), curve]))
    return "\n".join([*lines, "</table>", "</html>"])


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _curve(directory: Path) -> str:
    curves: Curves = {}
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        curves = read_curves(directory / "metrics.csv") if (directory / "metrics.csv").is_file() else {}
    name = validation_metric(curves, None) or next(iter(curves), None)
    points = [(x, y) for x, y in sorted(curves[name].items()) if abs(y) < 1e300] if name else []
    if len(points) < 2 or name is None:
        return ""
    (left, right), values = (points[0][0], points[-1][0]), [y for _, y in points]
    low, high = min(values), max(values)
    drawn = " ".join(
        f"{(x - left) / (right - left) * WIDTH:.1f},{HEIGHT - (y - low) / ((high - low) or 1) * HEIGHT:.1f}"
        for x, y in points
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}"><polyline points="{drawn}"/></svg><br>{escape(name)} {values[-1]:.4g}'
    )
