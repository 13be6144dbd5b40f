"""Fit each metric of a sweep by a power of a varied key's value, for `compare --fit KEY`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.claims.arms import short_names
from experiments.config_files import plain
from experiments.results import BEST_EPOCH, DIVERGED, Result, write_results
from experiments.run_request import Experiment
from experiments.sweeps.exponents import FEWEST, Exponent, fitted_exponent
from experiments.sweeps.variations import Variation, to_number


@dataclass(frozen=True)
class Fit:
    """The fit of one config's metric by a power of one varied key. All other varied keys are fixed.

    Args:
        line: label of the config, with the fixed values of the other keys.
        metric: name of the metric.
        key: short name of the varied key.
        points: results of the runs, by value of the key.
        law: fitted power law. None if the fit failed.
        note: values that were left out, or the reason why the fit failed.
    """

    line: str
    metric: str
    key: str
    points: dict[float, list[Result]] = field(hash=False)
    law: Exponent | None
    note: str


def keys_to_fit(wanted: Sequence[str], variations: Sequence[Variation]) -> list[str]:
    """Return the short names of the varied keys in which power laws are fitted.

    Args:
        wanted: dotted names of the keys, or the last parts of their dotted names.
        variations: varied keys and their values.
    """
    short = short_names([each.key for each in variations])
    found = []
    for name in wanted:
        own = [v for v in variations if f".{plain(v.key)}".endswith(f".{plain(name)}")]
        if not own:
            known = ", ".join(v.key for v in variations) or "no key"
            raise ValueError(f"--fit {name} is not a key of --vary, which has {known}")
        for each in own:
            bad = next((value for value in each.values if not 0 < to_number(value) < math.inf), None)
            if bad is not None:
                raise ValueError(f"--fit {name}: a power law needs positive numbers, but --vary has {bad}")
            if len(each.values) < FEWEST:
                raise ValueError(f"--fit {name}: an exponent needs {FEWEST} values, got {', '.join(each.values)}")
            found.append(short[each.key])
    return list(dict.fromkeys(found))


def fits(results: Sequence[Result], experiments: Sequence[Experiment], keys: Sequence[str]) -> list[Fit]:
    """Fit each metric of each config by a power of each given key. Metrics without positive values are omitted."""
    metrics = dict.fromkeys(r.metric for r in results if not r.metric.startswith((BEST_EPOCH, DIVERGED)))
    found = []
    for key in keys:
        lines: dict[str, dict[str, float]] = {}
        for each in experiments:
            setting = dict(each.setting)
            if key in setting:
                lines.setdefault(line_of(each, key), {})[each.title] = to_number(setting[key])
        for metric in metrics:
            for line, places in lines.items():
                points: dict[float, list[Result]] = {x: [] for x in sorted(places.values())}
                for result in results:
                    if result.metric == metric and result.config in places:
                        points[places[result.config]].append(result)
                if any(result.value > 0 for own in points.values() for result in own):
                    found.append(Fit(line, metric, key, points, *_law(points)))
    return found


def line_of(experiment: Experiment, key: str) -> str:
    """Return an experiment's label without the value of `key`. All experiments of a line share this label."""
    others = ", ".join(f"{name} {value}" for name, value in experiment.setting if name != key)
    return " ".join([experiment.label, others]).strip()


def _law(points: dict[float, list[Result]]) -> tuple[Exponent | None, str]:
    seeds = sorted({result.seed for own in points.values() for result in own})
    y = [[next((r.value for r in own if r.seed == seed), math.nan) for own in points.values()] for seed in seeds]
    try:
        law = fitted_exponent(list(points), y)
    except ValueError as error:
        law, note = None, [str(error)]
    else:
        note = []
    lost = {x: _reason(own, len(seeds)) for x, own in points.items()}
    return law, "; ".join([*note, *(f"{x:g} left out, {reason}" for x, reason in lost.items() if reason)])


def _reason(own: Sequence[Result], seeds: int) -> str:
    counts = {
        "diverged": sum(each.diverged for each in own),
        "not finite": sum(not math.isfinite(each.value) for each in own if not each.diverged),
        "not positive": sum(each.value <= 0 for each in own),
        "not run": seeds - len(own),
    }
    return " and ".join(f"{count} of {seeds} {what}" for what, count in counts.items() if count)


HEADER = ["config", "metric", "key", "exponent", "95 % interval", "seeds", "note"]


def exponent_cells(found: Sequence[Fit]) -> list[list[str]]:
    """Build the rows of a table of exponents ± standard errors, with the columns `HEADER`."""
    rows = []
    for each in found:
        shown = ["-"] * 3
        if law := each.law:
            shown = [f"{law.exponent:.3g} ± {law.error:.1g}", f"{law.low:.3g} to {law.high:.3g}", str(law.seeds)]
        rows.append([each.line, each.metric, each.key, *shown, each.note])
    return rows


def write_fits(found: Sequence[Fit], path: Path) -> None:
    """Write the fits to a CSV file without rounding their numbers."""
    numbers = ["exponent", "error", "low", "high", "factor", "seeds"]
    rows = [
        [each.line, each.metric, each.key, *(getattr(each.law, name, None) for name in numbers), each.note]
        for each in found
    ]
    write_results(path, ["config", "metric", "key", *numbers, "note"], rows)
