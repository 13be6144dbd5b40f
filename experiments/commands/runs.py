"""List the runs below a folder, with their state, epoch, metrics and the command that continues each.

    python train.py runs                                         runs below runs/, oldest first
    python train.py runs FOLDER --state failed killed --metrics test/accuracy,val/accuracy --sort test/accuracy
    python train.py runs --format csv > runs.csv                 or --format html > runs.html, with training curves
    python train.py runs show RUN                                changed settings, metrics, figures and checkpoints
    python train.py runs remove FOLDER --state failed            asks first; --yes does not ask

A run is finished if it was tested or trained to its end, running if a process writes to its directory, failed if it
ended with an error, and otherwise killed. Runs are only read: nothing that a run directory contains is imported or
executed.
"""

import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

from experiments.arguments import ArgumentParser
from experiments.listing import STATES, ListedRun, changed_settings, is_written, read_run, run_directories
from experiments.paper.formats import FORMATS, TextTable, print_table
from experiments.results import Curves, duration, read_curves, terminal, validation_metric

WIDTH, HEIGHT = 160, 48
"""Size of a curve in pixels."""
MOST_IN_FRAMES = 1000
"""Maximum number of runs in a table with frames and folded cells, which takes half a millisecond per run."""
MOST_CURVES = 500
"""Maximum number of runs whose curves are drawn."""
HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Runs</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem; }
td, th { padding: 2px 10px 2px 0; text-align: left; vertical-align: top; }
td:first-child, td:nth-last-child(2) { overflow-wrap: anywhere; }
polyline { fill: none; stroke: #0072b2; stroke-width: 1.5; }
</style>
"""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("words", metavar="[show | remove] FOLDER", nargs="*", help="default: runs")
    parser.add_argument("--state", nargs="+", choices=STATES, default=[], help="only runs in these states")
    parser.add_argument("--method", help="only methods whose class name contains this text, in any case")
    parser.add_argument(
        "--metrics", type=lambda text: text.split(","), default=[], metavar="METRIC,...", help="columns of metrics"
    )
    parser.add_argument("--sort", default="date", metavar="KEY", help="date, duration, epoch or a metric, which falls")
    parser.add_argument("--format", choices=("table", *FORMATS, "html"), default="table", help="form of the list")
    parser.add_argument("--yes", action="store_true", help="remove without asking")


def run(options: Namespace) -> int:
    action, words = "list", options.words
    if words and words[0] in ("show", "remove") and not Path(words[0]).is_dir():
        action, words = words[0], words[1:]
    if len(words) > 1 or (action == "show" and not words):
        raise ValueError(f"runs {action} needs one folder, got {' '.join(words) or 'none'}")
    folder = Path(words[0] if words else "runs")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder of the runs, such as runs")
    if action == "show":
        return _show(folder)
    every = [read_run(directory) for directory in run_directories(folder)]
    part = (options.method or "").lower()
    runs = [each for each in every if each.state in (options.state or STATES) and part in each.method.lower()]
    if not runs:
        raise FileNotFoundError(f"there is no such run below {folder}")
    if action == "remove":
        return _remove(runs, options)
    _list(_sort(runs, options.sort), options.metrics, options.format)
    return 0


def _sort(runs: Sequence[ListedRun], key: str) -> list[ListedRun]:
    keys = {
        "date": lambda run: run.started,
        "duration": lambda run: run.ended - run.started,
        "epoch": lambda run: -1 if run.epoch is None else run.epoch,
    }
    if key in keys:
        return sorted(runs, key=keys[key])
    known = dict.fromkeys(name for run in runs for name in run.metrics)
    if key not in known:
        raise ValueError(f"--sort must be date, duration, epoch or a metric ({', '.join(known) or 'none'}), got {key}")
    return sorted(runs, key=lambda run: -run.metrics.get(key, float("-inf")))


def _list(runs: Sequence[ListedRun], metrics: Sequence[str], form: str) -> None:
    shown = list(metrics) or list(dict.fromkeys(name for run in runs for name in run.metrics if "test/" in name))[:1]
    header = ["run", "method", "data", "state", "epoch", *shown, "started", "duration", "continue or reason"]

    def cells(run: ListedRun, number: str) -> list[str]:
        last = " ".join(filter(None, (run.command, f"# {run.reason}" if run.reason else "")))
        values = [format(run.metrics[name], number) if name in run.metrics else "-" for name in shown]
        epoch = "-" if run.epoch is None else str(run.epoch)
        own = [str(run.directory), run.method, run.data, run.state, epoch, *values, run.date]
        return [printable(cell) for cell in (*own, duration(run.ended - run.started), last)]

    if form == "table" and len(runs) > MOST_IN_FRAMES:
        print(f"{len(runs)} runs", *_aligned([header, *(cells(run, ".4g") for run in runs)]), sep="\n")
    elif form != "html":
        rows = [cells(run, "" if form == "csv" else ".4g") for run in runs]
        print_table(TextTable(f"{len(runs)} runs", header, rows), terminal(), None if form == "table" else form)
    else:
        print(page(header, [cells(run, ".4g") for run in runs], [run.directory for run in runs]))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def page(header: Sequence[str], rows: Sequence[Sequence[str]], directories: Sequence[Path]) -> str:
    """Return an HTML page with a row for each run: its cells, and the curve of its validation metric or loss."""
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


def printable(text: str) -> str:
    """Replace characters that could control a terminal."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def _show(directory: Path) -> int:
    if not (directory / "config.yaml").is_file():
        raise FileNotFoundError(f"{directory} is not a run: it has no config.yaml")
    run = read_run(directory)
    lines = [f"{run.method} on {run.data}, {run.state}, epoch {'-' if run.epoch is None else run.epoch}, {run.date}"]
    lines += [run.reason] * bool(run.reason) + [run.command] * bool(run.command)
    changed = changed_settings(directory)
    lines += ["", "settings that differ from the configuration:"] * bool(changed)
    lines += [f"  {key}: {new}  (configuration: {old})" for key, old, new in changed]
    lines += ["", *(f"  {name}  {value:.4g}" for name, value in sorted(run.metrics.items()))]
    for kind, pattern in (("figures", "figures/*"), ("checkpoints", "checkpoints/*.ckpt")):
        lines += [f"{kind}: {' '.join(sorted(path.name for path in directory.glob(pattern))) or '-'}"]
    print("\n".join(map(printable, lines)))
    return 0


def _remove(runs: Sequence[ListedRun], options: Namespace) -> int:
    if not options.state or {"finished", "running"} & {*options.state}:
        raise ValueError("runs remove needs --state failed, --state killed or both")
    for each in runs:
        print(printable(f"{each.state}  {each.directory}  {each.reason}").rstrip())
    if not options.yes:
        print(f"remove these {len(runs)} folders with all their files? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing is removed")
            return 1
    for each in runs:
        if not is_written(each.directory):  # it may have been resumed in the meantime
            shutil.rmtree(each.directory)
    return 0
