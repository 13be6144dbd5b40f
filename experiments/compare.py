"""Compare several configurations over several seeds, by tables, figures and fitted exponents."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from datamodules.files.whole_files import write_text
from experiments.claims.arms import Arm
from experiments.method_table import Places, by_metric, compared_groups, method_table, swept_keys, table_cells
from experiments.paper.formats import TextTable, print_table
from experiments.paper.paired_tests import TEST, Difference, emphasise, paired_differences
from experiments.results import (
    DIVERGED,
    Result,
    Summary,
    arrow,
    chosen,
    csv_text,
    in_order,
    markdown,
    metrics_grid,
    read_curves,
    read_test_metrics,
    summarise,
    without_repetition,
    write_results,
)
from experiments.run_request import Experiment, Run, check, code_fingerprint, record, unique_names
from experiments.sweeps.fits import HEADER, exponent_cells, fits, write_fits

MAX_CONFIGS = 10
"""Maximum number of configs in a figure of training curves, in which each config has a different colour."""


def default_output(arms: Sequence[Arm]) -> Path:
    """Return `runs/compare/<folder>/<config>-vs-<config>`, so that a repeated command finds its earlier runs."""
    parents = {each.config.resolve().parent for each in arms}
    folder = Path(parents.pop().name) if len(parents) == 1 else Path()
    own = unique_names([each.config.with_name(each.directory) for each in arms])
    names = [name.replace("/", "-") for name in own]
    name = "-vs-".join(names)
    if len(name) > 150:  # file systems allow 255 bytes
        name = f"{names[0][:100]}-vs-{len(names) - 1}-others-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path("runs/compare") / folder / name


def plan_runs(experiments: Sequence[Experiment], seeds: Sequence[int], output: Path) -> list[Run]:
    """Plan all runs, ordered by seed, so that configs can be compared early, and check the output directory."""
    runs = [Run(each, seed, output / each.name / f"seed_{seed}") for seed in seeds for each in experiments]
    for run in runs:
        check(run)
    return runs


def collect(runs: Sequence[Run], metrics: Iterable[str] = ()) -> list[Result]:
    """Collect the metrics of finished runs, sorted by config and metric.

    A diverged run gets NaN for each metric that a different run of its config has. If all runs of the config diverged,
    it gets NaN for each metric that any run has.

    Args:
        runs: all runs, including unfinished runs.
        metrics: full names of training or validation metrics to add. The last value of each metric is used.
    """
    measured = {run: read_test_metrics(run.directory / "test_metrics.csv") for run in runs if run.finished}
    if logged := [metric for metric in metrics if metric.startswith(("train/", "val/"))]:
        for run, values in measured.items():
            curves = read_curves(run.directory / "metrics.csv")
            values |= {name: curves[name][max(curves[name])] for name in logged if name in curves}
    lost = {run for run, values in measured.items() if values.get(DIVERGED, 0.0) >= 1}
    known: dict[str, dict[str, float]] = {}
    for run in (run for run in measured if run not in lost):
        for title in (run.experiment.title, ""):
            known.setdefault(title, {}).update(dict.fromkeys(measured[run], math.nan))
    for run in lost:
        missing = known.get(run.experiment.title) or known.get("", {})
        own = {name: value for name, value in measured[run].items() if name.startswith(DIVERGED)}
        measured[run] = missing | own
    found = [
        Result(run.experiment.title, metric, run.seed, value, run in lost)
        for run, values in measured.items()
        for metric, value in values.items()
    ]
    configs = list(dict.fromkeys(run.experiment.title for run in runs))
    metrics = in_order(result.metric for result in found)
    return sorted(found, key=lambda r: (configs.index(r.config), metrics.index(r.metric), r.seed))


def provenance(runs: Sequence[Run]) -> str:
    """Return one line with the date, machine and versions of the finished runs."""
    records = [record(run) for run in runs if run.finished]
    parts = []
    for key, label in (("date", "Run on "), ("machine", ""), ("torch", "torch "), ("python", "Python ")):
        values = sorted({str(each.get(key, "unknown")) for each in records})
        parts.append(
            label + (f"{values[0]} to {values[-1]}" if key == "date" and len(values) > 1 else " / ".join(values))
        )
    code = code_fingerprint()
    if other := sum(each.get("code") != code for each in records):
        parts.append(f"{other} of {len(records)} runs with an earlier state of the code")
    return ", ".join(parts) + "."


OVER_SEEDS = ("metric", "mean", "std", "seeds", "diverged", "not_finite")
COLUMNS = ("config", *OVER_SEEDS, "difference", "difference_std", "pairs", "p")
"""Columns of summary.csv."""


@dataclass
class Comparison:
    """The tables and figures of finished runs.

    Args:
        tables: tables for the terminal.
        pictures: paths of the figures.
        rows: rows of summary.csv for the shown metrics.
    """

    tables: list[TextTable]
    pictures: list[Path]
    rows: list[Sequence[object]]


def write_comparison(
    runs: Sequence[Run],
    output: Path,
    metrics: Sequence[str] = (),
    fit: Sequence[str] = (),
    figure_format: str = "png",
    paired: bool = True,
) -> Comparison:
    """Write tables and figures of the finished runs. The tables runs.csv and summary.csv always contain all metrics.

    Args:
        runs: all runs, including unfinished runs.
        output: output directory.
        metrics: metrics to show in tables and figures, see `chosen`.
        fit: short names of the keys for which power laws are fitted.
        figure_format: png, or pdf or svg in the width of a column.
        paired: whether each config is compared with the first config, or in a table of methods over settings, with the
            first method of the setting.
    """
    from experiments.figures import draw_comparison, draw_curves
    from experiments.sweeps.figures import draw_exponents

    found = collect(runs, metrics)
    experiments = list(dict.fromkeys(run.experiment for run in runs))
    place = table_cells(experiments)
    groups = compared_groups(experiments, place)
    differences = paired_differences(found, groups) if paired else []
    names = {each.title: each.name for each in experiments}
    rows: list[Sequence[object]] = [(names[r.config], r.metric, r.seed, r.value) for r in found]
    write_results(output / "runs.csv", ["config", "metric", "seed", "value"], rows)
    write_results(output / "summary.csv", COLUMNS, _summary_rows(summarise(found), names, differences))
    found = chosen(found, metrics)
    summaries = without_repetition(summarise(found))
    cell = emphasise(summaries, differences, groups).__getitem__
    done = [run for run in runs if run.finished]
    pictures = []
    if place and summaries:
        _draw_sweep(found, experiments, place, output / f"table.{figure_format}")
        pictures.append(output / f"table.{figure_format}")
    elif not place and any(math.isfinite(result.value) for result in found):
        draw_comparison(found, output / f"comparison.{figure_format}")
        pictures.append(output / f"comparison.{figure_format}")
    files: dict[str, list[Path]] = {}
    for run in done:
        files.setdefault(run.experiment.title, []).append(run.directory / "metrics.csv")
    methods = {each.title: each.label for each in experiments}
    if len(files) <= MAX_CONFIGS and draw_curves(files, output / f"curves.{figure_format}", metrics, methods):
        pictures.append(output / f"curves.{figure_format}")
    tables: list[TextTable] = []
    lines = [] if summaries else ["No run is finished.\n"]
    over = f"mean ± std over {_seeds(summaries)}"
    if place and summaries:
        header, cells_of_metrics = method_table(summaries, place, cell)
        write_results(output / "table.csv", ["metric", *header], cells_of_metrics)
        for metric, own in by_metric(cells_of_metrics):
            tables.append(TextTable(f"{metric}{arrow(metric)}, {over}", header, own))
            lines.append(f"## {metric}{arrow(metric)}\n\n{markdown(header, own)}\n")
    elif summaries:
        tables.append(TextTable(over, *metrics_grid(summaries, cell)))
        lines.append(markdown(*metrics_grid(summaries, cell)))
    lines.append("\n")
    if shown := _differences_table(summaries, differences):
        tables.append(shown)
        lines.append(f"## Differences\n\n{markdown(shown.header, shown.rows)}\n{shown.title}.\n\n")
    if laws := fits(found, experiments, fit):
        write_fits(laws, output / "exponents.csv")
        tables.append(TextTable("fitted exponents ± standard error", HEADER, exponent_cells(laws)))
        lines.append(f"## Exponents\n\n{markdown(HEADER, exponent_cells(laws))}\n")
        if any(each.law for each in laws):
            draw_exponents(laws, output / f"exponents.{figure_format}")
            pictures.append(output / f"exponents.{figure_format}")
    for experiment in experiments:
        seeds = ", ".join(str(run.seed) for run in done if run.experiment == experiment) or "none"
        lines.append(
            f"- {experiment.title}: `{' '.join([str(experiment.config), *experiment.overrides])}`, seeds {seeds}\n"
        )
    if done:
        lines.append(f"\nMean ± standard deviation (n - 1) over seeds. {provenance(done)}\n")
    lines += [f"\n![]({picture.name})\n" for picture in pictures]
    write_text(output / "summary.md", "".join(lines))
    return Comparison(tables, pictures, _summary_rows(summaries, names, differences))


def _summary_rows(
    summaries: Sequence[Summary], names: Mapping[str, str], differences: Sequence[Difference]
) -> list[Sequence[object]]:
    """Return the rows of summary.csv. The reference of the differences has no difference."""
    found = {(each.summary.config, each.summary.metric): each for each in differences}
    rows: list[Sequence[object]] = []
    for each in summaries:
        own = found.get((each.config, each.metric))
        compared = (own.summary.mean, own.summary.std, own.summary.seeds, own.p) if own else (None,) * 4
        rows.append((names[each.config], *(getattr(each, name) for name in OVER_SEEDS), *compared))
    return rows


def _differences_table(summaries: Sequence[Summary], differences: Sequence[Difference]) -> TextTable | None:
    """Return the table of the differences of the shown metrics, or None if no two runs form a pair."""
    shown = {(each.config, each.metric) for each in summaries}
    order = in_order(each.metric for each in summaries)
    own = [each for each in differences if (each.summary.config, each.summary.metric) in shown]
    rows = [
        [
            each.summary.metric + arrow(each.summary.metric),
            each.summary.config,
            each.reference,
            str(each.summary),
            "-" if math.isnan(each.p) else f"{each.p:.2g}",
            str(each.summary.seeds),
        ]
        for each in sorted(own, key=lambda each: order.index(each.summary.metric))
    ]
    header = ["metric", "config", "minus", "difference", "p", "pairs"]
    return TextTable(f"differences, {TEST}", header, rows) if rows else None


def _draw_sweep(found: Sequence[Result], experiments: Sequence[Experiment], place: Places, path: Path) -> None:
    """Draw lines if one key varies, heat maps if two keys vary, and otherwise a figure of methods over settings."""
    from experiments.sweeps.figures import draw_heat_maps, draw_lines, draw_table

    keys = swept_keys(experiments)
    if len(keys) == 1:
        draw_lines(found, experiments, path)
    elif len(keys) == 2:
        draw_heat_maps(found, experiments, path)
    else:
        draw_table(found, place, path)


def _seeds(summaries: Sequence[Summary]) -> str:
    counts = sorted({each.runs for each in summaries})
    return " to ".join(map(str, dict.fromkeys((*counts[:1], *counts[-1:])))) + (" seed" if counts == [1] else " seeds")


def show(comparison: Comparison, output: Path, console: Console, form: str | None = None) -> None:
    """Print the tables and the file names.

    Args:
        comparison: tables and figures of the runs.
        output: output directory.
        console: console for the tables and the file names.
        form: print the tables to the standard output in one of `FORMATS`, instead of to the console.
    """
    if form == "csv":
        print(csv_text(COLUMNS, comparison.rows), end="")
    else:
        for each in comparison.tables:
            print_table(each, console, form)
    for path in [output / "summary.csv", *comparison.pictures]:
        console.print(str(path), markup=False, soft_wrap=True)
