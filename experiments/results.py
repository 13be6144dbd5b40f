"""Read the results of runs from their directories, summarise them over seeds, and write them as CSV and Markdown."""

import csv
import difflib
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.files.whole_files import write_text

BEST_EPOCH = "best_epoch/"
"""Prefix of the metrics at the best epoch. They are reported if `checkpoint.test_checkpoint` is `last`."""

DID_NOT_RUN = "did not run"
"""Verdict of a claim or a reproduction whose runs have not finished."""

DIVERGED = "test/diverged"
"""Metric that is 1 for a run whose loss diverged, if its configuration treats divergence as a result."""

HIGHER = r"accuracy|recovered|dice|m?iou|acr|auroc|aupr|tnr\d*|psnr|ssim|retrieval|precision|recall|f1|tpr"
LOWER = (
    r"loss|entropy|error|memorized|distance|fid|lpips|nll|ece|abstained|diverged|mse|rmse|mae|perplexity|shd|fdr|"
    r"regret"
)


Curves = dict[str, dict[int, float]]
"""Values of metrics, by metric name and epoch."""


class Cell(str):
    """Text of a table cell that is in bold if `best` is set, and followed by an asterisk if `marked` is set."""

    def __new__(cls, text: str, best: bool = False, marked: bool = False) -> "Cell":
        cell = super().__new__(cls, text)
        cell.best, cell.marked = best, marked
        return cell

    best: bool
    marked: bool


def emphasised_text(text: str, escape: Callable[[str], str], bold: str, mark: str) -> str:
    """Escape the text of a table cell and, if it is a `Cell`, emphasise it.

    Args:
        text: the text.
        escape: function that escapes a text.
        bold: format of bold text, such as `**{}**`.
        mark: escaped mark.
    """
    own = escape(text)
    return (bold.format(own) if text.best else own) + mark * text.marked if isinstance(text, Cell) else own


@dataclass(frozen=True)
class Result:
    """One metric of one run.

    Args:
        config: title of the run's experiment.
        metric: name of the metric.
        seed: seed of the run.
        value: value of the metric. NaN if the run diverged and has no value.
        diverged: whether the run diverged.
    """

    config: str
    metric: str
    seed: int
    value: float
    diverged: bool = False


@dataclass(frozen=True)
class Summary:
    """One metric of one config, summarised over seeds.

    Args:
        config: title of the experiment.
        metric: name of the metric.
        mean: mean over the seeds with a finite value. NaN if no seed has a finite value.
        std: sample standard deviation (n - 1) over the seeds with a finite value. NaN for a single seed.
        seeds: number of seeds with a finite value.
        diverged: number of seeds that have no finite value because their run diverged.
        not_finite: number of seeds whose value is NaN or infinite although their run did not diverge. For example, the
            time to reach a threshold is infinite if the threshold was never reached.
    """

    config: str
    metric: str
    mean: float
    std: float
    seeds: int
    diverged: int = 0
    not_finite: int = 0

    @property
    def runs(self) -> int:
        """Number of all seeds, including those without a finite value."""
        return self.seeds + self.diverged + self.not_finite

    def __str__(self) -> str:
        if self.diverged == self.runs:
            return "diverged"
        lost = {"diverged": self.diverged, "not finite": self.not_finite if self.seeds else 0}
        notes = [f"{count} of {self.runs} {what}" for what, count in lost.items() if count]
        return mean_and_std(self.mean, self.std) + (f" ({', '.join(notes)})" if notes else "")


def validation_metric(names: Iterable[str], monitor: str | None) -> str | None:
    """Return the validation metric to show: `monitor` if it is logged, else the first metric that is not a loss."""
    if monitor in (names := list(names)):
        return monitor
    found = sorted(name for name in names if name.startswith("val/") and not re.search(r"_step$|[/_]\d+$", name))
    return next((name for name in found if not re.search("loss|entropy", name)), next(iter(found), None))


def final_metrics(metrics: Mapping[str, float], given_labels: bool = False) -> list[str]:
    """Format metrics, one per line, and omit metrics of single steps and single classes.

    Args:
        metrics: values by name.
        given_labels: whether validation labels are noisy. If true, a note says so.
    """
    stages = ("train/", "val/", "test/")
    shown = [name for name in metrics if not re.search(r"_step$|[/_]\d+$", name) and not repeats_tested(name, metrics)]
    shown.sort(key=lambda name: (*best_epoch_key(name), name))
    shown.sort(key=lambda name: next((i for i, stage in enumerate(stages) if stage in name), -1))
    width = max(map(len, shown), default=0)
    note = "  on the given labels, some of which may be false"
    return [
        f"{name:{width}}  {metrics[name]:<9.4g}{note * (given_labels and name.startswith('val/'))}".rstrip()
        for name in shown
    ]


def arrow(metric: str) -> str:
    """Return an arrow that shows whether larger or smaller values of a metric are better.

    The first known word in the name of the metric determines the direction. If no word is known, an empty string is
    returned. Metrics of edited images have no arrow, because the better direction depends on the task: for example,
    protection against edits aims at low similarity.
    """
    words = metric.rpartition("/")[2].split("_")
    told = next((word for word in words if re.fullmatch(f"{HIGHER}|{LOWER}|edit", word)), "edit")
    return "" if told == "edit" else " ↑" if re.fullmatch(HIGHER, told) else " ↓"


def chosen(results: Sequence[Result], metrics: Sequence[str]) -> list[Result]:
    """Select the results of `metrics`, in this order. The values of these metrics at the best epoch are included.

    Args:
        results: results of all runs.
        metrics: names with or without a stage, such as `test/accuracy` or `accuracy`. If empty, all metrics are
            selected.
    """
    known = dict.fromkeys(best_epoch_key(result.metric)[0] for result in results)
    for metric in metrics if results else ():
        if not any(metric in (name, name.partition("/")[2]) for name in known):
            raise ValueError(f"--metrics: no run has {metric}; the metrics are {', '.join(known)}")
    return [
        result
        for metric in metrics
        for result in results
        if metric in (name := best_epoch_key(result.metric)[0], name.partition("/")[2])
    ] or list(results)


def misspelt(name: str, known: Iterable[str]) -> bool:
    """Return whether an unknown metric is probably a misspelt known metric.

    Some metrics, such as FID, are logged only by complete runs. A name that is unlike all known names may be such a
    metric.
    """
    return bool(difflib.get_close_matches(name, list(known), 1, cutoff=0.8))


def choose_from(name: str, known: Iterable[str], what: str = "metrics") -> str:
    """Return the end of an error message about an unknown name: a similar name if there is one, and all names."""
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    meant = f"; did you mean {close[0]}?" if close else "."
    return f"{meant} The {what} are {', '.join(names)}"


def without_repetition(summaries: Sequence[Summary]) -> list[Summary]:
    """Omit a metric at the best epoch if, for every config, the tested checkpoint has the same value."""
    values = {(each.config, each.metric): str(each) for each in summaries}
    new = {
        metric
        for config, metric in values
        if values[config, metric] != values.get((config, best_epoch_key(metric)[0])) or not best_epoch_key(metric)[1]
    }
    return [each for each in summaries if each.metric in new]


def in_order(metrics: Iterable[str]) -> list[str]:
    """List unique metrics in order. A metric at the best epoch directly follows the metric of the tested checkpoint."""
    names = dict.fromkeys(metrics)
    tested = list(dict.fromkeys(best_epoch_key(name)[0] for name in names))
    return sorted(names, key=lambda name: (tested.index(best_epoch_key(name)[0]), best_epoch_key(name)[1]))


def best_epoch_key(metric: str) -> tuple[str, bool]:
    """Return a sort key that puts a metric at the best epoch after the same metric of the tested checkpoint."""
    return metric.removeprefix(BEST_EPOCH), metric.startswith(BEST_EPOCH)


def repeats_tested(metric: str, values: Mapping[str, float]) -> bool:
    """Return whether a metric at the best epoch has the same value as this metric of the tested checkpoint."""
    name, of_best_epoch = best_epoch_key(metric)
    return of_best_epoch and values.get(name) == values[metric]


def duration(seconds: float | None) -> str:
    """Format a duration as `0:12:34`, and an unknown duration as `-:--:--`."""
    return "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))


def write_results(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table atomically as CSV, see `csv_text`."""
    write_text(path, csv_text(header, rows))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table as CSV. NaN and None are empty fields, and floats have all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([("" if value is None or value != value else value) for value in row] for row in rows)
    return text.getvalue()


def read_csv(path: Path) -> list[Mapping[str, str]]:
    """Read the rows of a table as dicts by column, or return no rows if the file does not exist."""
    from datamodules.files.text_files import read_text  # a local import of NumPy, for a fast --help

    return list(csv.DictReader(io.StringIO(read_text(path)))) if path.is_file() else []


def latest(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> list[Mapping[str, str]]:
    """Keep only the last row for each combination of values in `columns`.

    A row whose verdict is `did not run` does not replace a row with numbers.
    """
    known: dict[tuple[str, ...], Mapping[str, str]] = {}
    for row in rows:
        key = tuple(row[column] for column in columns)
        known[key] = known.get(key, row) if row["verdict"] == DID_NOT_RUN else row
    return list(known.values())


def read_test_metrics(path: Path) -> dict[str, float]:
    """Read the metrics of a finished run, in the order of the file `test_metrics.csv`.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: it must have the columns metric and value, the latter a number") from None


def read_curves(path: Path) -> Curves:
    """Read the columns of a file `metrics.csv`. Empty cells are left out."""
    curves: Curves = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                epoch = int(float(row["epoch"]))
                for name, value in row.items():
                    if name not in ("epoch", "step") and value:
                        curves.setdefault(name, {})[epoch] = float(value)
    return curves


def summarise(results: Sequence[Result]) -> list[Summary]:
    """Compute the mean and standard deviation over seeds for each config and metric.

    The order of configs and metrics is kept. Seeds without a finite value are excluded from the mean, and their number
    is reported.
    """
    import numpy as np

    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.config, result.metric), []).append(result)
    summaries = []
    for (config, metric), own in found.items():
        sample = [result.value for result in own if math.isfinite(result.value)]
        mean = float(np.mean(sample)) if sample else math.nan
        std = float(np.std(sample, ddof=1)) if len(sample) > 1 else math.nan
        lost = [result.diverged for result in own if not math.isfinite(result.value)]
        summaries.append(Summary(config, metric, mean, std, len(sample), sum(lost), len(lost) - sum(lost)))
    return summaries


def mean_and_std(mean: float, std: float) -> str:
    """Format as `0.9312 ± 0.0041`: the std has two significant digits, and the mean has the same number of decimals."""
    if not math.isfinite(std) or std == 0 or not math.isfinite(mean):
        return f"{mean:.4g}" + (" ± 0" if std == 0 else "")
    decimals = 1 - math.floor(math.log10(std))
    if decimals > 6:
        return f"{mean:.4g} ± {std:.2g}"
    return f"{mean:.{max(decimals, 0)}f} ± {std:.{max(decimals, 0)}f}"


def metrics_grid(
    summaries: Sequence[Summary], cell: Callable[[Summary], str] = str
) -> tuple[list[str], list[list[str]]]:
    """Build the header and the rows of a table of all metrics and configs.

    The rows are the configs if there are more configs than metrics, and otherwise the metrics. `cell` formats a
    summary.
    """
    cells: Mapping[tuple[str, str], str] = {(each.config, each.metric): cell(each) for each in summaries}
    configs = list(dict.fromkeys(config for config, _ in cells))
    metrics = in_order(metric for _, metric in cells)
    if len(configs) > len(metrics):
        header = ["config", *(metric + arrow(metric) for metric in metrics)]
        return header, [[config, *(cells.get((config, m), "-") for m in metrics)] for config in configs]
    return ["metric", *configs], [
        [metric + arrow(metric), *(cells.get((c, metric), "-") for c in configs)] for metric in metrics
    ]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table. Vertical bars and line breaks in cells are escaped."""

    def escaped(text: str) -> str:
        return " ".join(text.split()).replace("|", "\\|")

    lines = [header, ["---"] * len(header), *rows]
    cells = ([emphasised_text(each, escaped, "**{}**", r"\*") for each in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Build a table for the terminal."""
    result = Table(title=escape(title), title_justify="left")
    for name in header:
        result.add_column(escape(name), overflow="fold")
    for row in rows:
        result.add_row(*(emphasised_text(cell, escape, "[bold]{}[/bold]", "*") for cell in row))
    return result


def terminal(stderr: bool = False) -> Console:
    """Return a console for the output or for errors. For a file or a pipe, the console is wide enough for tables."""
    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, width=160, stderr=stderr)
