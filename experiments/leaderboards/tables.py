"""Tables of leaderboards, from rows of docs/leaderboards.csv: in the terminal, and on the page docs/leaderboards.md."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from experiments.claims.arms import flags, short_names
from experiments.compare import collect, provenance
from experiments.config_files import PROJECT
from experiments.leaderboards.fields import FOLDER, Board, Plan, load_boards
from experiments.paper.formats import TextTable, markdown_table
from experiments.paper.paired_tests import SIGNIFICANCE, TEST, paired_differences
from experiments.results import Cell, Result, csv_text, read_csv, summarise
from experiments.run_request import Run
from experiments.saving.usage import COLUMNS as USED
from experiments.saving.usage import read_usage

COLUMNS = ("field", "size", "row", "column", "baseline", "metric", "direction", "result", "mean", "std", "seeds",
           "runs", "p", "settings", *USED, "command", "made")  # fmt: skip
"""Columns of leaderboards.csv. A row is a metric of a method in a setting."""
Row = dict[str, str]
ABOUT = f"""\
Each table compares the methods of a field, and simple baselines, on the same data under one protocol, which was fixed
before the runs. Searches are small: a method's chosen value is often the smallest or largest that was tried, so a wider
search may change the order. The best mean of a column is in bold. A star marks a difference from the first row
({TEST}). Times are means over the runs of a method, without the start of Python. The memory is the highest peak of its
runs.
"""


def results_of(board: Board, runs: Sequence[Run]) -> list[Result]:
    """Collect the metrics of the leaderboard from finished runs."""
    return [each for each in collect(runs, board.metrics) if each.metric in board.metrics]


def board_rows(plan: Plan, program: str) -> list[Row]:
    """Summarise the runs of a leaderboard in rows of leaderboards.csv. An entry without a result has failed."""
    board, runs, commands = plan.board, plan.runs(), dict(plan.commands(program, {}))
    found = results_of(board, runs)
    summaries = {(each.config, each.metric): each for each in summarise(found)}
    columns = dict.fromkeys(entry.column for entry in board.entries)
    groups = [[entry.title for entry in board.entries if entry.column == column] for column in columns]
    p = {(each.summary.config, each.summary.metric): each.p for each in paired_differences(found, groups)}
    rows = []
    for entry in board.entries:
        done = [run for run in runs if run.experiment.label == entry.title and run.finished]
        used = [usage for run in done if (usage := read_usage(run.directory))]
        for metric, direction in board.metrics.items():
            summary = summaries.get((entry.title, metric))
            failed = len(board.seeds) - (summary.runs if summary else 0)
            note = f" ({failed} of {len(board.seeds)} failed)" if failed else ""
            values = {
                **{"field": board.field, "size": board.size, "row": entry.row, "column": entry.column},
                **{"metric": metric, "direction": direction, "baseline": "yes" if entry.baseline else "no"},
                **{"result": f"{summary}{note}" if summary else "failed", "runs": len(board.seeds)},
                **({name: getattr(summary, name) for name in ("mean", "std", "seeds")} if summary else {}),
                **{"p": p.get((entry.title, metric)), "settings": shlex.join(plan.chosen(entry) or ())},
                **{n: round((fmean if "seconds" in n else max)(each[n] for each in used), 1) for n in USED if used},
                **{"command": commands.get(entry.title, ""), "made": provenance(done) if done else ""},
            }
            texts = {name: values.get(name) for name in COLUMNS}
            rows.append({name: "" if each is None or each != each else str(each) for name, each in texts.items()})
    return rows


def rows_text(rows: Sequence[Row]) -> str:
    """Format rows as the text of leaderboards.csv."""
    return csv_text(COLUMNS, [[row[name] for name in COLUMNS] for row in rows])


def best_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the row with the best mean of each metric and column. A method with a failed or lost seed is not best."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["mean"] and row["seeds"] == row["runs"]:
            groups.setdefault((row["metric"], row["column"]), []).append(row)
    best = {"higher": max, "lower": min}
    return [best[own[0]["direction"]](own, key=lambda row: float(row["mean"])) for own in groups.values()]


def board_tables(rows: Sequence[Row]) -> list[TextTable]:
    """Build a table for each metric: a row for each method, a column for each setting, and what the method costs."""
    best, tables = best_rows(rows), []
    costs = {"cpu_seconds": "CPU seconds", "mebibytes": "MiB"}
    if any(float(row["gpu_mebibytes"] or 0) for row in rows):
        costs = {"seconds": "seconds", "gpu_mebibytes": "GPU MiB"}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric]
        columns = list(dict.fromkeys(row["column"] for row in own))
        lines = []
        for name in dict.fromkeys(row["row"] for row in own):
            cells = [row for row in own if row["row"] == name]
            shown = [Cell(each["result"], each in best, float(each["p"] or 1) < SIGNIFICANCE) for each in cells]
            seconds, peaks = ([float(each[cost]) for each in cells if each[cost]] for cost in costs)
            totals = [f"{fmean(seconds):.0f}", f"{max(peaks):.0f}"] if seconds else ["-", "-"]
            lines.append([name, *shown, *totals, _searched(cells)])
        arrow = "↑" if own[0]["direction"] == "higher" else "↓"
        title = f"{metric} {arrow}, mean ± std over {own[0]['runs']} seed{'s' * (own[0]['runs'] != '1')}"
        tables.append(TextTable(title, ["method", *columns, *costs.values(), "chosen"], lines))
    return tables


def _searched(rows: Sequence[Row]) -> str:
    """Name the settings that the search of a method chose, by column if they differ."""
    texts = {}
    for row in rows:
        pairs = list(flags(shlex.split(row["settings"])))
        short = short_names([key for key, _ in pairs])
        texts[row["column"]] = ", ".join(f"{short[key]} {value}" for key, value in pairs) or "-"
    same = len(set(texts.values())) == 1
    return "; ".join([*texts.values()][:1] if same else [f"{column}: {text}" for column, text in texts.items()])


def winners(rows: Sequence[Row]) -> str:
    """Say in which columns a baseline is better than every other method."""
    best = best_rows(rows)
    lost = [f"{row['column']} ({row['row']}, {row['metric']})" for row in best if row["baseline"] == "yes"]
    return f"A baseline is the best method in {len(lost)} of {len(best)} columns{': ' * bool(lost)}{', '.join(lost)}."


def draw_board(board: Board, runs: Sequence[Run], path: Path) -> bool:
    """Draw the first metric of each method, with a panel for each setting. Return whether there is anything to draw."""
    from experiments.figures import draw_comparison

    entries, metric = {entry.title: entry for entry in board.entries}, next(iter(board.metrics))
    found = [each for each in results_of(board, runs) if each.metric == metric and math.isfinite(each.value)]
    placed = [Result(entries[each.config].row, entries[each.config].column, each.seed, each.value) for each in found]
    if placed:
        draw_comparison(placed, path, {entry.column: f"{entry.column}\n{metric}" for entry in board.entries})
    return bool(placed)


def picture(board: Board) -> str:
    """Return the file name of the picture of a leaderboard in docs/images."""
    return f"leaderboard_{board.field}{'_gpu' * (board.size == 'gpu')}.png"


def leaderboards_page(project: Path = PROJECT) -> str:
    """Return the text of docs/leaderboards.md: a section for each field and size."""
    rows, parts = read_csv(project / "docs/leaderboards.csv"), [ABOUT]
    for board in (each for path in sorted((project / FOLDER).glob("*.yaml")) for each in load_boards(path).values()):
        own = [dict(row) for row in rows if (row["field"], row["size"]) == (board.field, board.size)]
        command = f"`python train.py leaderboard {board.field}{' --size gpu' * (board.size == 'gpu')}`"
        parts.append(f"## {board.title}{', on a GPU' * (board.size == 'gpu')}\n\n{board.protocol}")
        if not own:
            parts.append(f"This table has not been run here. {command} runs it.\n")
            continue
        parts += [markdown_table(table) for table in board_tables(own)]
        if (project / "docs/images" / picture(board)).is_file():
            parts.append(f"![{board.title}](images/{picture(board)})\n")
        made = " ".join(dict.fromkeys(row["made"] for row in own if row["made"]))
        parts.append(f"{winners(own)} {made} {command} makes the table; with `--show`, it prints a command per cell.\n")
    return "\n".join(parts)
