"""Paired tests over seeds. Two runs with the same seed form a pair: they share data, splits and noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.results import Cell, Result, Summary, arrow, summarise

SIGNIFICANCE = 0.05
TEST = f"two-sided paired t-test over seeds, *: p < {SIGNIFICANCE:g}, not corrected for the number of comparisons"


@dataclass(frozen=True)
class Difference:
    """Difference between a metric of a config and that of the reference, over the seeds that both have.

    Args:
        reference: title of the reference.
        summary: config minus reference, over seeds.
        p: p-value of the two-sided paired t-test. NaN if there are fewer than two pairs, if a pair has no finite
            difference, or if all differences are equal.
    """

    reference: str
    summary: Summary
    p: float


def paired_p_value(better: Sequence[float], worse: Sequence[float]) -> float:
    """Compute the p-value of the one-sided paired t-test. It is 0 or 1 if all pairs have the same difference."""
    from scipy.stats import ttest_rel

    differences = {a - b for a, b in zip(better, worse, strict=True)}
    if len(differences) == 1:
        return 0.0 if differences.pop() > 0 else 1.0
    return float(ttest_rel(better, worse, alternative="greater").pvalue)


def paired_differences(results: Sequence[Result], groups: Sequence[Sequence[str]]) -> list[Difference]:
    """Compare each config with the first config of its group. Differences over fewer than two seeds are left out.

    The direction of a comparison is not stated before the runs, unlike that of a claim. Therefore the test is
    two-sided.

    Args:
        results: results of all runs.
        groups: titles of the configs to compare with each other.
    """
    values: dict[tuple[str, str], dict[int, Result]] = {}
    for each in results:
        values.setdefault((each.config, each.metric), {})[each.seed] = each
    found = []
    for reference, *others in groups:
        for (config, metric), own in values.items():
            theirs = values.get((reference, metric), {}) if config in others else {}
            pairs = [(own[seed], theirs[seed]) for seed in own if seed in theirs]
            if len(pairs) > 1:
                found.append(_difference(config, metric, reference, pairs))
    return [each for each in found if each.summary.seeds > 1]


def _difference(config: str, metric: str, reference: str, pairs: Sequence[tuple[Result, Result]]) -> Difference:
    gaps = [Result(config, metric, a.seed, a.value - b.value, a.diverged or b.diverged) for a, b in pairs]
    [summary] = summarise(gaps)
    largest = max(abs(each.value) for pair in pairs for each in pair)
    p = math.nan
    if summary.seeds == len(pairs) and summary.std > 1e-12 * largest:  # otherwise the differences vary by rounding only
        p = paired_p_value([a.value for a, _ in pairs], [b.value for _, b in pairs])
        p = 2 * min(p, 1 - p)
    return Difference(reference, summary, p)


def find_best(summaries: Sequence[Summary], groups: Sequence[Sequence[str]]) -> set[tuple[str, str]]:
    """Find the best config for each metric that has a direction, in each group of configs.

    A config without a finite value for some seed is not the best, because its other seeds are a biased selection. If
    all configs have the same mean, none is the best.

    Returns:
        Pairs (config, metric). Configs with equal means are all included.
    """
    best = set()
    for group in groups:
        for metric in {each.metric for each in summaries if arrow(each.metric)}:
            own = [each for each in summaries if each.metric == metric and each.config in group]
            means = [each.mean for each in own if each.seeds == each.runs]
            if not means or all(math.isclose(each.mean, means[0], rel_tol=1e-9) for each in own):
                continue
            top = (min if "↓" in arrow(metric) else max)(means)
            best |= {(each.config, metric) for each in own if each.mean == top and each.seeds == each.runs}
    return best


def emphasise(
    summaries: Sequence[Summary], differences: Sequence[Difference], groups: Sequence[Sequence[str]]
) -> dict[Summary, Cell]:
    """Format summaries for tables. The best mean is in bold, and a significant difference is marked."""
    best = find_best(summaries, groups)
    marked = {(each.summary.config, each.summary.metric) for each in differences if each.p < SIGNIFICANCE}
    return {
        each: Cell(str(each), best=(each.config, each.metric) in best, marked=(each.config, each.metric) in marked)
        for each in summaries
    }
