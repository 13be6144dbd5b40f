"""Compare our results with published numbers: read files with published numbers, plan runs, and compute verdicts.

`train.py reproduce` runs the experiments in such files. The results are recorded in docs/reproduced.csv.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.files.text_files import read_text
from datamodules.files.whole_files import write_text
from experiments.arguments import are_seeds, finite
from experiments.compare import collect, provenance
from experiments.config_files import located, parsed, relative, text_of
from experiments.results import (
    DID_NOT_RUN,
    Result,
    choose_from,
    latest,
    markdown,
    mean_and_std,
    read_csv,
    summarise,
    write_csv,
)
from experiments.run_request import Run, check, load_experiments
from experiments.sweeps.exponents import FEWEST
from experiments.sweeps.fits import fits, keys_to_fit
from experiments.sweeps.variations import Variation, variation, varied

KEYS = ("name", "paper", "config", "command", "overrides", "vary", "seeds", "tried", "results")
RESULT_KEYS = ("metric", "published", "uncertainty", "direction", "margin")
NEEDED = ("name", "paper", "config", "seeds", "results", "metric", "published", "direction", "margin")
RUN_COMMANDS = ("fit", "test")
DIRECTIONS = ("higher", "lower", "equal")
ABOVE = Path("runs/reproduced")
REPRODUCED, NOT_REACHED, MISSING = "reproduced", "not reached", DID_NOT_RUN
COLUMNS = ["experiment", "paper", "config", "overrides", "metric", "published", "uncertainty", "direction", "margin",
           "mean", "std", "seeds", "cpu_hours", "verdict", "tried", "made"]  # fmt: skip
Row = Mapping[str, str]


@dataclass(frozen=True)
class Published:
    """A number from a paper, and the criterion for reproducing it. The criterion was stated before the runs.

    Args:
        metric: metric of our runs, such as `test/accuracy`.
        published: number in the paper.
        uncertainty: standard deviation of the paper's number, or reading error of a number that was read from a figure.
        direction: `higher` if higher values are better, `lower` if lower values are better, and otherwise `equal`.
        margin: how much worse than the paper's number our mean may be. For `equal`, it is how much our mean may differ
            from this number.
    """

    metric: str
    published: float
    direction: str
    margin: float
    uncertainty: float | None = None

    def verdict(self, mean: float) -> str:
        """Compare our mean over seeds with the paper's number."""
        missing = {"higher": self.published - mean, "lower": mean - self.published}
        worse = missing.get(self.direction, abs(mean - self.published))
        close = worse <= self.margin or math.isclose(worse, self.margin, rel_tol=1e-9)
        return REPRODUCED if close else NOT_REACHED


@dataclass(frozen=True)
class Reproduction:
    """An experiment from a paper, at the size of the paper.

    Args:
        name: unique name of the experiment in its file.
        paper: table, figure or sentence of the paper.
        config: path of the configuration.
        overrides: command-line arguments after the configuration.
        variation: varied key, or None. If there is a varied key, the compared number is the fitted exponent of the
            metric in this key.
        runs: one run per seed and per value of the varied key.
        results: published numbers to compare.
        tried: remark on the result, for example on attempts to reach the number.
        output: directory of the runs.
    """

    name: str
    paper: str
    config: Path
    overrides: tuple[str, ...]
    variation: Variation | None
    runs: tuple[Run, ...]
    results: tuple[Published, ...]
    tried: str
    output: Path

    def compared(self, published: Published) -> str:
        """Return the name of the compared number: the metric, or its exponent in the varied key."""
        if self.variation is None:
            return published.metric
        [key] = keys_to_fit([self.variation.key], [self.variation])
        return f"exponent of {published.metric} in {key}"

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all runs on this machine, in seconds."""
        path = self.output / "cpu_seconds.txt"
        return sum(map(float, read_text(path).split())) if path.is_file() else math.nan

    def add_cpu_seconds(self, seconds: float) -> None:
        """Add the CPU time of some of the runs to the recorded CPU time."""
        with (self.output / "cpu_seconds.txt").open("a", encoding="utf-8") as file:
            file.write(f"{seconds:.1f}\n")


def load(path: Path, output: Path | None = None) -> list[Reproduction]:
    """Read a file with published numbers, and plan the runs.

    Args:
        path: YAML file with a list of experiments.
        output: directory of the runs. None means `runs/reproduced/<folder of the file>`.

    Raises:
        FileNotFoundError: if the file or a configuration does not exist.
        ValueError: if a key is missing, unknown or has an invalid value, or if the output directory contains other
            runs.
    """
    path = relative(located(path).resolve())
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    entries = parsed(text_of(path), path)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} must contain a list of experiments with the keys {', '.join(KEYS)}")
    above = output or ABOVE / path.resolve().parent.name
    return [_reproduction(each, path, f"{path}, experiment {i}", above) for i, each in enumerate(entries, 1)]


def plan(files: Sequence[Path], output: Path | None = None) -> list[Reproduction]:
    """Read files with published numbers, and plan the runs, with one directory per experiment.

    Raises:
        FileNotFoundError, ValueError: see `load`. A ValueError is also raised if two experiments would have the same
            directory.
    """
    found = [each for file in files for each in load(file, output)]
    taken = [each.output for each in found]
    if repeated := next((each for each in found if taken.count(each.output) > 1), None):
        raise ValueError(f"the name {repeated.name!r} is used twice, for runs in {repeated.output}")
    return found


def _reproduction(entry: object, path: Path, where: str, above: Path) -> Reproduction:
    values = _checked(entry, where, KEYS)
    for key in ("name", "paper", "config", *(["tried"] if "tried" in values else [])):
        if not isinstance(values[key], str) or not values[key].strip():
            raise ValueError(f"{where}: {key} must be a text, got {values[key]!r}")
    seeds, overrides, command = values["seeds"], values.get("overrides", []), values.get("command", "fit")
    if command not in RUN_COMMANDS:
        raise ValueError(f"{where}: command must be one of {', '.join(RUN_COMMANDS)}, got {command!r}")
    if not are_seeds(seeds):
        raise ValueError(f"{where}: seeds must be a list of different whole numbers, got {seeds!r}")
    if not isinstance(overrides, list) or not all(isinstance(each, str) for each in overrides):
        raise ValueError(f"{where}: overrides must be a list of texts, got {overrides!r}")
    if not isinstance(values["results"], list) or not values["results"]:
        raise ValueError(f"{where}: results must be a list of mappings with the keys {', '.join(RESULT_KEYS)}")
    results = tuple(_published(each, where) for each in values["results"])
    [experiment] = load_experiments([path.parent / values["config"]], overrides)
    directory = above / re.sub(r"[^a-z0-9]+", "_", values["name"].lower()).strip("_")
    vary = _variation(values["vary"], where) if "vary" in values else None
    folders = {experiment: directory}
    if vary:
        try:
            every = varied([experiment], [vary])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        folders = {each: directory / each.name.rpartition("/")[2] for each in every}
    runs = tuple(
        Run(each, seed, folder / f"seed_{seed}", command) for seed in seeds for each, folder in folders.items()
    )
    for run in runs:
        check(run)
    return Reproduction(values["name"], values["paper"], experiment.config, tuple(overrides), vary, runs, results,
                        values.get("tried", ""), directory)  # fmt: skip


def _variation(entry: object, where: str) -> Variation:
    key, values = next(iter(entry.items())) if isinstance(entry, Mapping) and len(entry) == 1 else ("", None)
    numbers = values if isinstance(values, list) else []
    if len(numbers) < FEWEST or not all((finite(each) or 0) > 0 for each in numbers):
        raise ValueError(f"{where}: vary must be a mapping of one key to a list of at least {FEWEST} positive numbers, "
                         f"got {entry!r}")  # fmt: skip
    try:
        return variation(f"{key}={','.join(map(str, numbers))}")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _published(entry: object, where: str) -> Published:
    values = _checked(entry, f"{where}, results", RESULT_KEYS)
    for key in (each for each in ("published", "margin", "uncertainty") if each in values):
        number = finite(values[key])
        if number is None:
            raise ValueError(f"{where}: {key} must be a number, got {values[key]!r}")
        if key != "published" and number < 0:
            raise ValueError(f"{where}: {key} must be at least 0, got {number!r}")
        if isinstance(values[key], str):
            values[key] = number
    if values["direction"] not in DIRECTIONS:
        raise ValueError(f"{where}: direction must be one of {', '.join(DIRECTIONS)}, got {values['direction']!r}")
    if not isinstance(values["metric"], str):
        raise ValueError(f"{where}: metric must be a text, got {values['metric']!r}")
    return Published(**values)


def _checked(entry: object, where: str, allowed: Sequence[str]) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} must be a mapping with the keys {', '.join(allowed)}")
    if unknown := next((key for key in entry if key not in allowed), None):
        raise ValueError(f"{where}: unknown key {unknown}{choose_from(str(unknown), allowed)}")
    if missing := next((key for key in allowed if key in NEEDED and key not in entry), None):
        raise ValueError(f"{where}: {missing} is missing")
    return dict(entry)


def rows_of(reproduction: Reproduction) -> list[Row]:
    """Compare the finished runs with the published numbers, in rows of reproduced.csv.

    Raises:
        ValueError: if a finished run lacks a metric. The message names the available metrics.
    """
    metrics = [each.metric for each in reproduction.results]
    results = collect(reproduction.runs, metrics)
    finished = all(run.finished for run in reproduction.runs)
    rows = []
    for each in reproduction.results:
        own = [result for result in results if result.metric == each.metric]
        if finished and len(own) < len(reproduction.runs):
            known = choose_from(each.metric, [result.metric for result in results])
            raise ValueError(f"{reproduction.name}: the runs have no metric {each.metric}{known}")
        rows.append(_row(reproduction, each, own if finished else []))
    return rows


def _row(reproduction: Reproduction, published: Published, results: Sequence[Result]) -> Row:
    done = bool(results)
    mean = std = math.nan
    if done and reproduction.variation:
        mean, std = _exponent(reproduction, results)
    elif done:
        [summary] = summarise(results)
        mean, std = summary.mean, summary.std
        if summary.diverged or summary.not_finite:
            mean = math.nan
    vary = [f"--vary {each.key}={','.join(each.values)}" for each in [reproduction.variation] if each]
    values = {
        "experiment": reproduction.name,
        "paper": reproduction.paper,
        "config": reproduction.config,
        "overrides": " ".join([*reproduction.overrides, *vary]),
        "metric": reproduction.compared(published),
        "published": published.published,
        "uncertainty": published.uncertainty,
        "direction": published.direction,
        "margin": published.margin,
        "mean": mean,
        "std": std,
        "seeds": " ".join(dict.fromkeys(str(run.seed) for run in reproduction.runs)),
        "cpu_hours": round(reproduction.cpu_seconds / 3600, 3),
        "verdict": published.verdict(mean) if done else MISSING,
        "tried": reproduction.tried,
        "made": provenance(reproduction.runs) if done else "",
    }
    return {key: "" if value is None or value != value else str(value) for key, value in values.items()}


def _exponent(reproduction: Reproduction, results: Sequence[Result]) -> tuple[float, float]:
    """Fit the exponent of a metric in the varied key, and return its mean and standard deviation over seeds.

    Mean and standard deviation are NaN if a value of the metric is missing or not positive, because a fit to the
    remaining values would be biased by selection.
    """
    assert reproduction.variation is not None
    experiments = list(dict.fromkeys(run.experiment for run in reproduction.runs))
    found = fits(results, experiments, keys_to_fit([reproduction.variation.key], [reproduction.variation]))
    law = found[0].law if found else None
    if law is None or law.left_out:
        return math.nan, math.nan
    return law.exponent, law.error * math.sqrt(law.seeds) if law.seeds > 1 else math.nan


def read(path: Path) -> list[Row]:
    """Read reproduced.csv, or return no rows if the file does not exist."""
    return read_csv(path)


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write reproduced.csv with the latest row of each experiment and metric, see `results.latest`."""
    kept = latest([*read(path), *rows], ["config", "experiment", "metric"])
    write_csv(path, COLUMNS, [[row[name] for name in COLUMNS] for row in kept])


HEADER = ["experiment", "where in the paper", "metric", "published", "here", "seeds", "CPU hours",
          "criterion", "verdict"]  # fmt: skip


def cells(row: Row) -> list[str]:
    """Format a row of reproduced.csv as cells of a table."""
    published = row["published"] + (f" ± {row['uncertainty']}" if row["uncertainty"] else "")
    here = mean_and_std(float(row["mean"] or "nan"), float(row["std"] or "nan")) if row["mean"] else "-"
    criterion = {
        "higher": f"at most {row['margin']} below",
        "lower": f"at most {row['margin']} above",
        "equal": f"at most {row['margin']} away",
    }[row["direction"]]
    verdict = row["verdict"] + (f": {row['tried']}" if row["tried"] else "")
    return [row["experiment"], row["paper"], row["metric"], published, here, ", ".join(row["seeds"].split()),
            row["cpu_hours"] or "-", criterion, verdict]  # fmt: skip


def page(rows: Sequence[Row], papers: Mapping[str, str]) -> str:
    """Return the text of docs/reproduced.md.

    Args:
        rows: rows of reproduced.csv.
        papers: Markdown link of each method, by the folder of the method's configurations.
    """
    folders = [Path(row["config"]).parent.name for row in rows]
    own = [papers.get(folder, folder) for folder in folders]
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in (REPRODUCED, NOT_REACHED)}
    commands = "\n".join(
        f"python train.py reproduce configs/{folder}/reproduced.yaml" for folder in dict.fromkeys(folders)
    )
    made = " ".join(dict.fromkeys(row["made"] for row in rows if row["made"]))
    shown = [
        [method, f"[{row['experiment']}](../{row['config']})", *cells(row)[1:]]
        for row, method in zip(rows, own, strict=True)
    ]
    return (
        "These experiments have the data and the sizes of the paper, or check a number of its theorem at a size that "
        "the file states. The criterion was stated before the runs. "
        f"Of {len(rows)} numbers from {len(set(own))} papers, {counts[REPRODUCED]} are reproduced and "
        f"{counts[NOT_REACHED]} are not reached. The uncertainty of a published number is its standard deviation in "
        "the paper, or the error of reading a figure.\n\n"
        f"{markdown(['method', *HEADER], shown)}\n"
        f"Mean ± standard deviation (n - 1) over seeds. {made}\n\n```\n{commands}\n```\n"
    )


def save(rows: Sequence[Row], output: Path) -> None:
    """Write reproduced.csv and reproduced.md for a list of results."""
    write(output / "reproduced.csv", rows)
    write_text(output / "reproduced.md", page(rows, {}))
