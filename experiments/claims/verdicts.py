"""Decide statements over seeds, and write their verdicts as tables and as docs/claims.csv."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.files.whole_files import write_text
from experiments.claims.statements import Claim, Place
from experiments.compare import collect, provenance
from experiments.launching.run_queue import Failure
from experiments.paper.paired_tests import SIGNIFICANCE, paired_p_value
from experiments.results import (
    BEST_EPOCH,
    DID_NOT_RUN,
    Result,
    Summary,
    markdown,
    mean_and_std,
    summarise,
    write_results,
)
from experiments.run_request import Experiment
from experiments.sweeps.fits import fits, keys_to_fit

HOLDS, FAILS, MISSING = "holds", "does not hold", DID_NOT_RUN
REPRODUCED, NOT_REACHED, OPEN = "reproduced", "not reached", "open"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim.

    Args:
        verdict: `holds`, `does not hold` or `did not run`; for a published number, `reproduced`,
            `not reached` or `did not run`.
        reason: mean difference, margin and p-value as a text, or a statement of what is missing. For a published
            number, it is the remark of the statement.
        method: metric of the method over seeds. None if the claim did not run.
        baseline: metric of the baseline over seeds. None if the claim did not run, or has no baseline.
        best_epoch: metric of the baseline at its best epoch, if its runs report this metric.
        difference: method minus baseline for the same seed, over seeds, or mean minus published number. None if the
            claim did not run.
        p: p-value of the one-sided paired t-test. NaN if there is no test.
    """

    claim: Claim
    verdict: str
    reason: str
    method: Summary | None = None
    baseline: Summary | None = None
    best_epoch: Summary | None = None
    difference: Summary | None = None
    p: float = math.nan

    @property
    def fails(self) -> bool:
        """Whether something that is claimed does not hold or did not run."""
        unclaimed = self.verdict in (FAILS, NOT_REACHED) and not self.claim.claimed
        return self.verdict not in (HOLDS, REPRODUCED) and not unclaimed


def decide_claim(claim: Claim, method: Sequence[float], baseline: Sequence[float]) -> tuple[str, str, Summary, float]:
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
    return HOLDS if enough and p < SIGNIFICANCE else FAILS, reason, difference, p


def compare_with_published(claim: Claim, mean: float, std: float) -> str:
    """Compare our mean over seeds with the published number.

    The margin is at most the standard deviation of the published number. A mean that reaches the margin by less than a
    tenth of its standard deviation does not count, because the next seeds could miss it.
    """
    assert claim.published is not None
    missing = {"higher": claim.published - mean, "lower": mean - claim.published}
    worse = missing.get(claim.direction, abs(mean - claim.published))
    margin = claim.margin if claim.uncertainty is None else min(claim.margin, claim.uncertainty)
    least = 0.0 if math.isnan(std) else std / 10
    close = worse <= margin - least or math.isclose(worse, margin - least, rel_tol=1e-9)
    return REPRODUCED if close else NOT_REACHED


def verdict(claim: Claim, place: Place, results: Sequence[Result], failures: Sequence[Failure]) -> Verdict:
    """Decide a claim from the results of its runs. If a run failed or lacks a metric, the claim is not decided.

    Args:
        claim: claim to decide.
        place: experiments of the claims in a folder.
        results: results of the finished runs.
        failures: runs that failed.
    """
    sides = [place.experiments[arm, claim.vary] for arm, _ in claim.sides]
    titles = {each.title for own in sides for each in own}
    failed = [f for f in failures if f.run.experiment.title in titles and f.run.seed in claim.seeds]
    if failed:
        return Verdict(claim, MISSING, f"{failed[0].run.title} failed, {failed[0].reason}")
    own = [result for result in results if result.seed in claim.seeds]
    summaries = {(s.config, s.metric): s for s in summarise(own) if s.runs == len(claim.seeds)}
    for experiments, (_, metric) in zip(sides, claim.sides, strict=True):
        for title in (each.title for each in experiments):
            if (title, metric) not in summaries:
                known = ", ".join(metric for name, metric in summaries if name == title)
                return Verdict(claim, MISSING, f"{title} lacks the metric {metric} in some seed; it has {known}")
    if claim.published is not None:
        ours = _exponent(claim, sides[0], own) if claim.vary else summaries[sides[0][0].title, claim.metric]
        mean = math.nan if ours.diverged or ours.not_finite else ours.mean
        ours = replace(ours, mean=mean)
        difference = Summary("difference", claim.metric, mean - claim.published, math.nan, ours.seeds)
        return Verdict(claim, compare_with_published(claim, mean, ours.std), claim.tried, ours, difference=difference)
    [method], [baseline] = ([each.title for each in experiments] for experiments in sides)
    compared = [(method, claim.sides[0][1]), (baseline, claim.sides[1][1])]
    values = {(each.config, each.metric, each.seed): each for each in own}
    pairs = [[values[config, metric, seed] for seed in claim.seeds] for config, metric in compared]
    ours, theirs = (summaries[each] for each in compared)
    if claim.baseline_metric:
        theirs = replace(theirs, config=f"{baseline}: {claim.baseline_metric}")
    best = summaries.get((baseline, BEST_EPOCH + compared[1][1]))
    for each in (each for both in pairs for each in both):
        if not math.isfinite(each.value):
            how = "diverged" if each.diverged else f"has {each.metric} {each.value}"
            reason = f"{each.config}, seed {each.seed} {how}, so this pair has no difference"
            return Verdict(claim, FAILS, reason, ours, theirs, best)
    found, reason, difference, p = decide_claim(claim, *([each.value for each in both] for both in pairs))
    return Verdict(claim, found, reason, ours, theirs, best, difference, p)


def _exponent(claim: Claim, experiments: Sequence[Experiment], results: Sequence[Result]) -> Summary:
    """Fit the exponent of a metric in the varied key, and summarise it over seeds.

    Mean and standard deviation are NaN if a value of the metric is missing or not positive, because a fit to the
    remaining values would be biased by selection.
    """
    assert claim.vary is not None
    own = [each for each in results if each.metric == claim.metric]
    found = fits(own, experiments, keys_to_fit([claim.vary.key], [claim.vary]))
    law = found[0].law if found else None
    if law is None or law.left_out:
        return Summary(experiments[0].label, claim.metric, math.nan, math.nan, len(claim.seeds))
    std = law.error * math.sqrt(law.seeds) if law.seeds > 1 else math.nan
    return Summary(experiments[0].label, claim.metric, law.exponent, std, law.seeds)


COLUMNS = ["claim", "paper", "method", "baseline", "metric", "direction", "margin", "published", "uncertainty",
           "printed", "method_name", "method_mean", "method_std", "baseline_name", "baseline_mean", "baseline_std",
           "baseline_best_epoch_mean", "baseline_best_epoch_std", "difference", "difference_std", "p", "seeds",
           "planned_seeds", "cpu_hours", "predicted", "verdict", "reason", "made"]  # fmt: skip
"""Columns of claims.csv."""
Row = Mapping[str, str]


def claim_rows(verdicts: Sequence[Verdict], place: Place) -> list[Row]:
    """Convert the verdicts of a folder to rows of claims.csv."""
    rows: list[Row] = []
    for each in verdicts:
        claim = each.claim
        runs = place.runs if claim.baseline else place.runs_of(claim)
        vary = [f"--vary {claim.vary.key}={','.join(claim.vary.values)}"] if claim.vary else []
        numbers = {"published": claim.published, "uncertainty": claim.uncertainty}
        values: dict[str, object] = {
            "claim": claim.name,
            "paper": claim.paper,
            "method": " ".join([str(claim.method), *vary]),
            "baseline": claim.baseline,
            "metric": _compared_name(claim),
            "direction": claim.direction,
            "margin": claim.margin,
            **{key: f"{value:g}" for key, value in numbers.items() if value is not None},
            "p": each.p,
            "printed": ("yes" if claim.printed else "no") if claim.published is not None else None,
            "seeds": " ".join(map(str, claim.seeds)),
            "planned_seeds": " ".join(map(str, claim.planned_seeds)),
            "predicted": HOLDS if claim.predicted else OPEN,
            "cpu_hours": place.cpu_hours(claim) if claim.published is not None else None,
            "verdict": each.verdict,
            "reason": each.reason,
            "made": provenance(runs) if any(run.finished for run in runs) and each.method else "",
        }
        figures = {"method": each.method, "baseline": each.baseline, "baseline_best_epoch": each.best_epoch}
        for name, summary in figures.items():
            if summary:
                values |= {f"{name}_name": summary.config, f"{name}_mean": summary.mean, f"{name}_std": summary.std}
        if each.difference:
            values |= {"difference": each.difference.mean, "difference_std": each.difference.std}
        row = [(name, values.get(name)) for name in COLUMNS]
        rows.append({k: "" if v is None or v != v else str(v) for k, v in row})
    return rows


def _compared_name(claim: Claim) -> str:
    """Return the name of the compared number: the metric, or its exponent in the varied key."""
    if claim.vary is None:
        return claim.metric
    [key] = keys_to_fit([claim.vary.key], [claim.vary])
    return f"exponent of {claim.metric} in {key}"


def decide(place: Place, failures: Sequence[Failure]) -> tuple[list[Verdict], list[Row]]:
    """Decide the claims of a folder from its finished runs. Return the verdicts and their rows."""
    results = collect(place.runs, {metric for claim in place.claims for _, metric in claim.sides})
    own = [failure for failure in failures if failure.run in place.runs]
    verdicts = [verdict(claim, place, results, own) for claim in place.claims]
    return verdicts, claim_rows(verdicts, place)


def write_claims(path: Path, rows: Sequence[Row]) -> None:
    """Write claims.csv."""
    write_results(path, COLUMNS, [[row[name] for name in COLUMNS] for row in rows])


def reproductions(rows: Sequence[Row], published: bool = True) -> list[Row]:
    """Return the rows with a published number, or the rows with a baseline."""
    return [row for row in rows if bool(row["published"]) == published]


PRINTED = {
    "yes": "Numbers printed in a paper, at the size of its experiment",
    "no": "Constants and exponents of theorems, at sizes that were chosen here",
}
"""Tables of docs/reproduced.md, by the column `printed`."""
HEADER = ["claim", "the paper's sentence", "metric", "method", "baseline or published number", "baseline's best epoch",
          "difference", "margin", "verdict", "seeds"]  # fmt: skip


def claims_table(rows: Sequence[Row]) -> str:
    """Format rows of claims.csv as a Markdown table, followed by a line that says where the runs come from."""
    cells = [
        [
            row["claim"],
            row["paper"],
            f"{row['metric']} ({row['direction']})",
            *_numbers(row),
            row["margin"],
            f"**{row['verdict']}**"
            + (", not predicted" if row["predicted"] == OPEN else "")
            + (f": {row['reason']}" if row["reason"] and row["verdict"] != HOLDS else ""),
            _seeds(row),
        ]
        for row in rows
    ]
    made = " ".join(dict.fromkeys(row["made"] for row in rows if row["made"]))
    tested = " p of a one-sided paired t test." if reproductions(rows, published=False) else ""
    return f"{markdown(HEADER, cells)}\nMean ± standard deviation (n - 1) over seeds.{tested} {made}".rstrip() + "\n"


def _seeds(row: Row) -> str:
    planned = f" (planned: {', '.join(row['planned_seeds'].split())})" if row["planned_seeds"] else ""
    return ", ".join(row["seeds"].split()) + planned + (f" ({row['cpu_hours']} CPU hours)" if row["cpu_hours"] else "")


def verdict_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table that is printed in the terminal."""
    return ["claim", "metric", *HEADER[3:9]], [
        [row["claim"], row["metric"], *_numbers(row), f"{row['margin']} {row['direction']}",
         ": ".join(filter(None, (row["verdict"], row["reason"])))]
        for row in rows
    ]  # fmt: skip


def format_number(row: Row, mean: str, std: str, missing: str = "-") -> str:
    """Format the mean and standard deviation in two columns of a row, or return `missing` if there is no mean."""
    return mean_and_std(float(row[mean]), float(row[std] or "nan")) if row[mean] else missing


def _numbers(row: Row) -> list[str]:
    """Format the numbers of the method, of the baseline and of its best epoch, and the difference."""
    shown = {
        name: format_number(row, f"{name}_mean", f"{name}_std")
        for name in ("method", "baseline", "baseline_best_epoch")
    }
    for name in ("method", "baseline"):
        if row[f"{name}_name"] and shown[name] != "-":
            shown[name] = f"{row[f'{name}_name']}: {shown[name]}"
    if row["published"]:
        uncertainty = f" ± {row['uncertainty']}" if row["uncertainty"] else ""
        shown["baseline"] = f"published: {row['published']}{uncertainty}"
    p = f" (p = {float(row['p']):.2g})" if row["p"] else ""
    return [*shown.values(), format_number(row, "difference", "difference_std") + p]


def reproduced_page(rows: Sequence[Row], papers: Mapping[str, str]) -> str:
    """Return the text of docs/reproduced.md.

    Args:
        rows: rows of claims.csv with published numbers.
        papers: Markdown link of each method, by the folder of the method's configurations.
    """
    folders = [Path(row["method"]).parts[1] for row in rows]
    linked = [
        {**row, "paper": f"{papers.get(each, each)}: {row['paper']}"} for row, each in zip(rows, folders, strict=True)
    ]
    commands = "\n".join(f"python train.py claim configs/{folder}/claim.yaml" for folder in dict.fromkeys(folders))
    tables = ""
    for printed, title in PRINTED.items():
        own = [row for row in linked if row["printed"] == printed]
        done = sum(row["verdict"] == REPRODUCED for row in own)
        tables += f"## {title}\n\n{done} of {len(own)} are reproduced.\n\n{claims_table(own)}\n"
    return (
        "The margin was stated before the runs: the mean may be worse than the number by the margin, or differ from it "
        "by the margin if neither direction is better. Two rules that were added after the runs are stricter: the "
        "margin is at most the standard deviation of the published number, and a mean that reaches the margin by less "
        "than a tenth of its standard deviation over seeds counts as not reached. The uncertainty of a published "
        "number is its standard deviation in the paper, or the error of reading a figure."
        f"\n\n{tables}```\n{commands}\n```\n"
    )


def write_claim_tables(rows: Sequence[Row], output: Path) -> None:
    """Write claims.csv and claims.md."""
    write_claims(output / "claims.csv", rows)
    write_text(output / "claims.md", claims_table(rows))
