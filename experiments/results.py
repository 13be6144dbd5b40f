"""Results of runs as tables: read from the runs' directories, summarised over seeds, written as CSV and Markdown."""

import csv
import difflib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.files.whole_files import write_text

BEST_EPOCH = "best_epoch/"
"""Prefix of the metrics of a run's best epoch, where the checkpoint that the config tests is another one."""

DIVERGED = "test/diverged"
"""Metric that is 1 for a run whose loss diverged, where its configuration takes that for a result."""

HIGHER = r"accuracy|recovered|dice|m?iou|acr|auroc|aupr|tnr\d*|psnr|ssim|retrieval|precision|recall|f1|tpr"
LOWER = (
    r"loss|entropy|error|memorized|distance|fid|lpips|nll|ece|abstained|diverged|mse|rmse|mae|perplexity|shd|fdr|"
    r"regret"
)


Curves = dict[str, dict[int, float]]
"""Metric name -> epoch -> value."""


@dataclass(frozen=True)
class Result:
    """One metric of one run.

    Args:
        config: title of the run's experiment.
        metric: its name.
        seed: that of the run.
        value: NaN for a metric that a diverged run does not have.
        diverged: whether the run diverged.
    """

    config: str
    metric: str
    seed: int
    value: float
    diverged: bool = False


@dataclass(frozen=True)
class Summary:
    """One metric of one config over seeds.

    Args:
        config: title of the experiment.
        metric: its name.
        mean: average over the seeds that have a finite value; NaN if there are none.
        std: their sample standard deviation (n - 1); NaN for a single seed.
        seeds: their number.
        diverged: number of seeds without a value as their runs diverged.
        not_finite: number of seeds whose value is NaN or infinite otherwise, as of what was never reached.
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
        """Count the seeds with and without a value."""
        return self.seeds + self.diverged + self.not_finite

    def __str__(self) -> str:
        if self.diverged == self.runs:
            return "diverged"
        lost = {"diverged": self.diverged, "not finite": self.not_finite if self.seeds else 0}
        notes = [f"{count} of {self.runs} {what}" for what, count in lost.items() if count]
        return mean_and_std(self.mean, self.std) + (f" ({', '.join(notes)})" if notes else "")


def validation_metric(names: Iterable[str], monitor: str | None) -> str | None:
    """Choose the one validation metric to show: what the best epoch is chosen by, else the first that is no loss."""
    if monitor in (names := list(names)):
        return monitor
    found = sorted(name for name in names if name.startswith("val/") and not re.search(r"_step$|[/_]\d+$", name))
    return next((name for name in found if not re.search("loss|entropy", name)), next(iter(found), None))


def final_metrics(metrics: Mapping[str, float], given_labels: bool = False) -> list[str]:
    """Write metrics a line each, without those of single steps and of one class among many.

    Args:
        metrics: by name.
        given_labels: whether validation labels are the given ones, some of which are false, which the lines say then.
    """
    stages = ("train/", "val/", "test/")
    shown = [name for name in metrics if not re.search(r"_step$|[/_]\d+$", name) and not repeated(name, metrics)]
    shown.sort(key=lambda name: (*beside(name), name))
    shown.sort(key=lambda name: next((i for i, stage in enumerate(stages) if stage in name), -1))
    width = max(map(len, shown), default=0)
    note = "  on the given labels, some of which are false"
    return [
        f"{name:{width}}  {metrics[name]:<9.4g}{note * (given_labels and name.startswith('val/'))}".rstrip()
        for name in shown
    ]


def arrow(metric: str) -> str:
    """Say which direction of a metric is the better one, by the first word of its name that tells; or nothing.

    Of an edit that a protection shall spoil, likeness is no merit: such metrics have no arrow.
    """
    words = metric.rpartition("/")[2].split("_")
    told = next((word for word in words if re.fullmatch(f"{HIGHER}|{LOWER}|edit", word)), "edit")
    return "" if told == "edit" else " ↑" if re.fullmatch(HIGHER, told) else " ↓"


def chosen(results: Sequence[Result], metrics: Sequence[str]) -> list[Result]:
    """Keep the results of some metrics, in their order, and those of the best epoch beside them.

    Args:
        results: of all runs.
        metrics: names, with or without their stage: `test/accuracy` or `accuracy`; none keeps all.

    Raises:
        ValueError: names a metric that no run has.
    """
    known = dict.fromkeys(beside(result.metric)[0] for result in results)
    for metric in metrics if results else ():
        if not any(metric in (name, name.partition("/")[2]) for name in known):
            raise ValueError(f"--metrics: no run has {metric}; there are {', '.join(known)}")
    return [
        result
        for metric in metrics
        for result in results
        if metric in (name := beside(result.metric)[0], name.partition("/")[2])
    ] or list(results)


def misspelt(name: str, known: Iterable[str]) -> bool:
    """Tell whether a metric that a short run does not have is likely one that it has, by another name.

    One that is like none of them may be measured in whole runs alone, as distances of generated images are.
    """
    return bool(difflib.get_close_matches(name, list(known), 1, cutoff=0.8))


def choose_from(name: str, known: Iterable[str]) -> str:
    """End a sentence about a metric that there is not: the name that was meant, perhaps, and those that there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    meant = f"; did you mean {close[0]}?" if close else "."
    return f"{meant} There are {', '.join(names)}"


def without_repetition(summaries: Sequence[Summary]) -> list[Summary]:
    """Leave out a best epoch's metric where it says of every config what the tested checkpoint's says."""
    values = {(each.config, each.metric): str(each) for each in summaries}
    new = {
        metric
        for config, metric in values
        if values[config, metric] != values.get((config, beside(metric)[0])) or not beside(metric)[1]
    }
    return [each for each in summaries if each.metric in new]


def in_order(metrics: Iterable[str]) -> list[str]:
    """List metrics once each, in the order of the tested checkpoint's, with the best epoch's directly behind them."""
    names = dict.fromkeys(metrics)
    tested = list(dict.fromkeys(beside(name)[0] for name in names))
    return sorted(names, key=lambda name: (tested.index(beside(name)[0]), beside(name)[1]))


def beside(metric: str) -> tuple[str, bool]:
    """Order metrics: that of the best epoch directly behind that of the tested checkpoint."""
    return metric.removeprefix(BEST_EPOCH), metric.startswith(BEST_EPOCH)


def repeated(metric: str, values: Mapping[str, float]) -> bool:
    """Tell whether a best epoch's metric says what the tested checkpoint's says, as where that epoch was the last."""
    name, of_best_epoch = beside(metric)
    return of_best_epoch and values.get(name) == values[metric]


def duration(seconds: float | None) -> str:
    """Write a time as `0:12:34`, that of an unknown one as `-:--:--`."""
    return "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table in one step. NaN becomes an empty field; floats keep all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([("" if value is None or value != value else value) for value in row] for row in rows)
    write_text(path, text.getvalue())


def read_test_metrics(path: Path) -> dict[str, float]:
    """The metrics of a finished run, in the order of its `test_metrics.csv`.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: it must have the columns metric and value, the latter a number") from None


def read_curves(path: Path) -> Curves:
    """Read the columns of a `metrics.csv`, without the epochs at which they have no value."""
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
    """Mean and standard deviation over seeds, for each config and metric in the order of their first appearance.

    A value that is not finite enters no mean: it is counted.
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
    """`0.9312 ± 0.0041`: two digits of the deviation that count, and as many decimals of the mean."""
    if not math.isfinite(std) or std == 0 or not math.isfinite(mean):
        return f"{mean:.4g}" + (" ± 0" if std == 0 else "")
    decimals = 1 - math.floor(math.log10(std))
    if decimals > 6:
        return f"{mean:.4g} ± {std:.2g}"
    return f"{mean:.{max(decimals, 0)}f} ± {std:.{max(decimals, 0)}f}"


def grid(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of all metrics and configs, the longer list downwards."""
    cells: Mapping[tuple[str, str], str] = {(each.config, each.metric): str(each) for each in summaries}
    configs = list(dict.fromkeys(config for config, _ in cells))
    metrics = in_order(metric for _, metric in cells)
    if len(configs) > len(metrics):
        header = ["config", *(metric + arrow(metric) for metric in metrics)]
        return header, [[config, *(cells.get((config, m), "-") for m in metrics)] for config in configs]
    return ["metric", *configs], [
        [metric + arrow(metric), *(cells.get((c, metric), "-") for c in configs)] for metric in metrics
    ]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Bars and line breaks inside cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in line) + " |\n" for line in lines)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for the terminal."""
    result = Table(title=escape(title), title_justify="left")
    for name in header:
        result.add_column(escape(name), overflow="fold")
    for row in rows:
        result.add_row(*(escape(cell) for cell in row))
    return result


def terminal() -> Console:
    """Standard output; wide enough for the tables where it is a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)
