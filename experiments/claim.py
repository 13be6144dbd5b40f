"""Claims that compare a method with a baseline: read claim files, plan their runs, and decide claims over seeds."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.files.whole_files import write_text
from experiments.arguments import are_seeds, finite
from experiments.compare import collect, provenance
from experiments.config_files import located, parsed, relative, text_of
from experiments.launching.run_queue import Failure
from experiments.results import (
    BEST_EPOCH,
    DID_NOT_RUN,
    Result,
    Summary,
    choose_from,
    markdown,
    mean_and_std,
    misspelt,
    read_csv,
    summarise,
    write_csv,
)
from experiments.run_request import Experiment, Run, check, load_experiments, unique_names

REQUIRED = ("paper", "method", "baseline", "metric", "direction", "margin", "seeds")
OPTIONAL = ("name", "baseline_metric", "claimed")
ABOVE = Path("runs/claims")
HOLDS, FAILS, UNCLAIMED, MISSING = "holds", "does not hold", "not claimed", DID_NOT_RUN
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Claim:
    """One claim of a claim file. Paths are relative to the working directory."""

    name: str
    paper: str
    method: Path
    baseline: Path
    metric: str
    direction: str
    margin: float
    seeds: tuple[int, ...]
    claimed: bool = True
    baseline_metric: str | None = None

    @property
    def metrics(self) -> tuple[str, str]:
        """Names of the metrics of the method and of the baseline."""
        return self.metric, self.baseline_metric or self.metric


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim.

    Args:
        verdict: `holds`, `does not hold`, `not claimed` or `did not run`.
        reason: mean difference, margin and p-value as a text, or a statement of what is missing.
        method: metric of the method over seeds. None if the claim did not run.
        baseline: metric of the baseline over seeds. None if the claim did not run.
        best_epoch: metric of the baseline at its best epoch, if its runs report this metric.
        difference: method minus baseline for the same seed, over seeds. None if the claim did not run.
        p: p-value of the one-sided paired t-test. NaN if the claim did not run.
    """

    claim: Claim
    verdict: str
    reason: str
    method: Summary | None = None
    baseline: Summary | None = None
    best_epoch: Summary | None = None
    difference: Summary | None = None
    p: float = math.nan


def load_claims(path: Path) -> list[Claim]:
    """Read a claim file.

    Raises:
        FileNotFoundError: if the file, or a config that it names, does not exist.
        ValueError: if a key is missing, unknown or has an invalid value. The message names the key.
    """
    if not path.is_file():
        raise FileNotFoundError(f"claim file {path} {'is not a file' if path.exists() else 'does not exist'}")
    content = parsed(text_of(path), path)
    entries = content if isinstance(content, list) else [content]
    if not entries:
        raise ValueError(f"{path} contains no claim")
    many = len(entries) > 1
    return [_claim(each, path, f"{path}, claim {i}" if many else str(path)) for i, each in enumerate(entries, 1)]


def _claim(entry: object, path: Path, where: str) -> Claim:
    keys = ", ".join(REQUIRED)
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} must be a mapping with the keys {keys}")
    for key in entry:
        if key not in REQUIRED + OPTIONAL:
            raise ValueError(f"{where}: unknown key {key}; allowed are {keys} and {', '.join(OPTIONAL)}")
    for key in REQUIRED:
        if key not in entry:
            raise ValueError(f"{where}: {key} is missing; a claim has the keys {keys}")
    for key in ("paper", "method", "baseline", "metric", *(key for key in OPTIONAL[:2] if key in entry)):
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise ValueError(f"{where}: {key} must be a text, got {entry[key]!r}")
    if entry["direction"] not in ("higher", "lower"):
        raise ValueError(f"{where}: direction must be higher or lower, got {entry['direction']!r}")
    if not isinstance(entry.get("claimed", True), bool):
        raise ValueError(f"{where}: claimed must be true or false, got {entry['claimed']!r}")
    margin = finite(entry["margin"])
    if margin is None:
        raise ValueError(f"{where}: margin must be a number, got {entry['margin']!r}")
    seeds = entry["seeds"]
    if not are_seeds(seeds) or len(seeds) < 2:
        raise ValueError(f"{where}: seeds must be a list of at least 2 different whole numbers, got {seeds!r}")
    configs = {key: path.parent / entry[key] for key in ("method", "baseline")}
    for key, config in configs.items():
        if not config.is_file():
            raise FileNotFoundError(f"{where}: {key} names {config}, which does not exist")
    if configs["method"].resolve() == configs["baseline"].resolve() and "baseline_metric" not in entry:
        raise ValueError(f"{where}: method and baseline must be two different configs, got {entry['method']} for both")
    name = entry.get("name", f"{path.resolve().parent.name}/{configs['method'].stem}")
    return Claim(name, entry["paper"], **configs, metric=entry["metric"], direction=entry["direction"],
                 margin=margin, seeds=tuple(seeds), claimed=entry.get("claimed", True),
                 baseline_metric=entry.get("baseline_metric"))  # fmt: skip


def judge(claim: Claim, method: Sequence[float], baseline: Sequence[float]) -> tuple[str, str, Summary, float]:
    """Decide whether a claim holds: the mean difference must reach the margin, with a p-value below `SIGNIFICANCE`.

    A difference that equals the margin up to rounding errors also reaches the margin.

    Args:
        claim: claim to decide.
        method: metric of the method, one value per seed.
        baseline: metric of the baseline, one value per seed, in the same order.

    Returns:
        The verdict, the reason, the difference (method minus baseline) over seeds, and the p-value of the paired
        t-test.
    """
    pairs = zip(method, baseline, strict=True)
    [difference] = summarise([Result("difference", claim.metric, i, a - b) for i, (a, b) in enumerate(pairs)])
    gain = difference.mean if claim.direction == "higher" else -difference.mean
    enough = gain >= claim.margin or math.isclose(gain, claim.margin, rel_tol=1e-9, abs_tol=1e-12)
    better, worse = (method, baseline) if claim.direction == "higher" else (baseline, method)
    p = paired_p_value([each - min(claim.margin, 0) for each in better], worse)
    reason = (
        f"difference {difference.mean:+.4g} {'reaches' if enough else 'misses'} the margin ({claim.margin:g} "
        f"{claim.direction}), paired p = {p:.2g}"
    )
    found = HOLDS if enough and p < SIGNIFICANCE else FAILS
    return found if claim.claimed else UNCLAIMED, reason, difference, p


def paired_p_value(better: Sequence[float], worse: Sequence[float]) -> float:
    """Compute the p-value of the one-sided paired t-test. It is 0 or 1 if all pairs have the same difference.

    Args:
        better: values that are expected to be greater, one per seed.
        worse: values that are expected to be smaller, one per seed, in the same order.
    """
    from scipy.stats import ttest_rel

    differences = {a - b for a, b in zip(better, worse, strict=True)}
    if len(differences) == 1:
        return 0.0 if differences.pop() > 0 else 1.0
    return float(ttest_rel(better, worse, alternative="greater").pvalue)


def verdict(claim: Claim, names: Mapping[Path, str], results: Sequence[Result], failures: Sequence[Failure]) -> Verdict:
    """Decide a claim from the results of its runs. If a run failed or lacks a metric, the claim is not decided.

    Args:
        claim: claim to decide.
        names: titles of the experiments by config.
        results: results of the finished runs.
        failures: runs that failed.
    """
    method, baseline = names[claim.method.resolve()], names[claim.baseline.resolve()]
    failed = [f for f in failures if f.run.experiment.title in (method, baseline) and f.run.seed in claim.seeds]
    if failed:
        return Verdict(claim, MISSING, f"{failed[0].run.title} failed, {failed[0].reason}")
    own = [result for result in results if result.seed in claim.seeds]
    summaries = {(s.config, s.metric): s for s in summarise(own) if s.runs == len(claim.seeds)}
    compared = list(zip((method, baseline), claim.metrics, strict=True))
    for config, metric in compared:
        if (config, metric) not in summaries:
            known = ", ".join(metric for name, metric in summaries if name == config)
            return Verdict(claim, MISSING, f"{config} lacks the metric {metric} in some seed; it has {known}")
    values = {(each.config, each.metric, each.seed): each for each in own}
    pairs = [[values[config, metric, seed] for seed in claim.seeds] for config, metric in compared]
    ours, theirs = (summaries[each] for each in compared)
    if claim.baseline_metric:
        theirs = replace(theirs, config=f"{baseline}: {claim.baseline_metric}")
    best = summaries.get((baseline, BEST_EPOCH + claim.metrics[1]))
    for each in (each for both in pairs for each in both):
        if not math.isfinite(each.value):
            how = "diverged" if each.diverged else f"has {each.metric} {each.value}"
            reason = f"{each.config}, seed {each.seed} {how}, so this pair has no difference"
            return Verdict(claim, FAILS if claim.claimed else UNCLAIMED, reason, ours, theirs, best)
    found, reason, difference, p = judge(claim, *([each.value for each in both] for both in pairs))
    return Verdict(claim, found, reason, ours, theirs, best, difference, p)


COLUMNS = ["claim", "paper", "method", "baseline", "metric", "direction", "margin", "method_name", "method_mean",
           "method_std", "baseline_name", "baseline_mean", "baseline_std", "baseline_best_epoch_mean",
           "baseline_best_epoch_std", "difference", "difference_std", "p", "seeds", "verdict", "reason",
           "made"]  # fmt: skip
"""Columns of claims.csv."""
Row = Mapping[str, str]


def rows_of(verdicts: Sequence[Verdict], runs: Sequence[Run]) -> list[Row]:
    """Convert verdicts to rows of claims.csv."""
    made = provenance(runs) if any(run.finished for run in runs) else ""
    rows: list[Row] = []
    for each in verdicts:
        claim, values = each.claim, dict.fromkeys(COLUMNS[7:17])
        figures = {"method": each.method, "baseline": each.baseline, "baseline_best_epoch": each.best_epoch}
        for name, summary in figures.items():
            if summary:
                values |= {f"{name}_name": summary.config, f"{name}_mean": summary.mean, f"{name}_std": summary.std}
        if each.difference:
            values |= {"difference": each.difference.mean, "difference_std": each.difference.std}
        stated = [claim.name, claim.paper, claim.method, claim.baseline, claim.metric, claim.direction, claim.margin]
        found = [each.p, " ".join(map(str, claim.seeds)), each.verdict, each.reason, made]
        row = [*stated, *(values[name] for name in COLUMNS[7:17]), *found]
        rows.append({k: "" if v is None or v != v else str(v) for k, v in zip(COLUMNS, row, strict=True)})
    return rows


def read_claims(path: Path) -> list[Row]:
    """Read claims.csv, or return no rows if the file does not exist."""
    return read_csv(path)


def write_claims(path: Path, rows: Sequence[Row]) -> None:
    """Write claims.csv."""
    write_csv(path, COLUMNS, [[row[name] for name in COLUMNS] for row in rows])


HEADER = ["claim", "the paper's sentence", "metric", "method", "baseline", "baseline's best epoch",
          "difference of pairs", "margin", "verdict", "seeds"]  # fmt: skip


def claims_table(rows: Sequence[Row]) -> str:
    """Format rows of claims.csv as a Markdown table, followed by a line that says where the runs come from."""
    cells = [
        [
            row["claim"],
            row["paper"],
            f"{row['metric']} ({row['direction']})",
            *(_cell(row, which) for which in ("method", "baseline", "baseline_best_epoch")),
            _difference(row),
            row["margin"],
            f"**{row['verdict']}**" + ("" if row["verdict"] == HOLDS else f": {row['reason']}"),
            ", ".join(row["seeds"].split()),
        ]
        for row in rows
    ]
    made = " ".join(dict.fromkeys(row["made"] for row in rows))
    explained = "Mean ± standard deviation (n - 1) over seeds, p of a one-sided paired t test."
    return f"{markdown(HEADER, cells)}\n{explained} {made}".rstrip() + "\n"


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table that is printed in the terminal."""
    header = ["claim", "metric", "method", "baseline", "baseline's best epoch", "difference", "margin", "verdict"]
    return header, [
        [row["claim"], row["metric"], *(_cell(row, which) for which in ("method", "baseline", "baseline_best_epoch")),
         _difference(row), f"{row['margin']} {row['direction']}", f"{row['verdict']}: {row['reason']}"]
        for row in rows
    ]  # fmt: skip


def _cell(row: Row, which: str) -> str:
    if not row[f"{which}_mean"]:
        return "-"
    figure = mean_and_std(float(row[f"{which}_mean"]), float(row[f"{which}_std"] or "nan"))
    return f"{row[f'{which}_name']}: {figure}" if row.get(f"{which}_name") else figure


def _difference(row: Row) -> str:
    if not row["difference"]:
        return "-"
    return f"{mean_and_std(float(row['difference']), float(row['difference_std']))} (p = {float(row['p']):.2g})"


def write(rows: Sequence[Row], output: Path) -> None:
    """Write claims.csv and claims.md."""
    write_claims(output / "claims.csv", rows)
    write_text(output / "claims.md", claims_table(rows))


@dataclass(frozen=True)
class Place:
    """The claims in one folder, with their runs and their output directory."""

    claims: list[Claim]
    names: dict[Path, str]
    runs: list[Run]
    output: Path


def place(claims: Sequence[Claim], output: Path) -> Place:
    """Plan the runs of the claims in a folder. A run that several claims share is planned only once.

    Raises:
        ValueError, NotADirectoryError: if the output directory contains other runs.
    """
    seeds: dict[Path, set[int]] = {}
    configs: dict[Path, Path] = {}
    for claim in claims:
        for config in (claim.method, claim.baseline):
            configs.setdefault(config.resolve(), config)
            seeds.setdefault(config.resolve(), set()).update(claim.seeds)
    experiments = load_experiments(list(configs.values()))
    runs = [
        Run(experiment, seed, output / experiment.name / f"seed_{seed}")
        for seed in sorted(set.union(*seeds.values()))
        for experiment, wanted in zip(experiments, seeds.values(), strict=True)
        if seed in wanted
    ]
    for run in runs:
        check(run)
    names = {path: experiment.title for path, experiment in zip(configs, experiments, strict=True)}
    return Place(list(claims), names, runs, output)


def check_metrics(run: Run, places: Sequence[Place]) -> None:
    """Raise an error if a finished run lacks the metric of a claim. Call this function before other runs start.

    Raises:
        ValueError: if a metric is missing. The message names the claim and the available metrics.
    """
    [found] = [place for place in places if run in place.runs]
    for claim in found.claims:
        for config, metric in zip((claim.method, claim.baseline), claim.metrics, strict=True):
            if run.experiment.title != found.names[config.resolve()]:
                continue
            results = collect([run], claim.metrics)
            known = [result.metric for result in results]
            if metric not in known and not any(result.diverged for result in results):
                reason = f"{run.title} has no metric {metric}{choose_from(metric, known)}"
                raise ValueError(f"claim {claim.name}: {reason}")


def try_metrics(places: Sequence[Place], metrics_of: Callable[[Sequence[str]], Collection[str] | None]) -> None:
    """Raise an error if the metric of a claim seems misspelt, given the metrics of a short run of the method.

    Args:
        places: claims to check. Claims whose method has a finished run are skipped, because `check_metrics` checks
            them.
        metrics_of: function that runs `fit` with the given arguments for a short time and returns the names of the
            metrics, or None if the run failed.

    Raises:
        ValueError: if a metric seems misspelt. The message names the claim and the available metrics.
    """
    known: dict[Experiment, Collection[str] | None] = {}
    for found in places:
        for claim in found.claims:
            own = [run for run in found.runs if run.experiment.title == found.names[claim.method.resolve()]]
            if any(run.finished for run in own):
                continue
            experiment = own[0].experiment
            if experiment not in known:
                known[experiment] = metrics_of(["--config", str(experiment.config), *experiment.overrides])
            metrics = known[experiment]
            if metrics is not None and claim.metric not in metrics and misspelt(claim.metric, metrics):
                tested = [each for each in metrics if "test/" in each]
                reason = f"{experiment.title} has no metric {claim.metric}{choose_from(claim.metric, tested)}"
                raise ValueError(f"claim {claim.name}: {reason}")


def plan(files: Sequence[Path], output: Path | None) -> list[Place]:
    """Read claim files and plan their runs, with one `Place` per folder.

    Raises:
        FileNotFoundError, ValueError: if a claim file is missing or invalid. The error is raised before any run starts.
    """
    claims: dict[Path, list[Claim]] = {}
    for file in dict.fromkeys(located(file).resolve() for file in files):
        claims.setdefault(file.parent, []).extend(load_claims(relative(file)))
    if output and len(claims) == 1:
        return [place(each, output) for each in claims.values()]
    above = output or ABOVE
    return [place(each, above / name) for each, name in zip(claims.values(), unique_names(list(claims)), strict=True)]
