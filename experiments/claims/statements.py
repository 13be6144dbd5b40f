"""Read statements from claim files, and plan their runs.

A statement compares the arm `method` with the arm `baseline`, or with a number that the paper has `published`.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.arguments import are_seeds, finite_number
from experiments.claims.arms import Arm, stated_arm
from experiments.compare import collect
from experiments.config_files import PROJECT, locate_config, parse_yaml, relative, text_of
from experiments.results import choose_from, misspelt
from experiments.run_request import Experiment, Run, check, load_experiments, unique_names
from experiments.sweeps.exponents import FEWEST
from experiments.sweeps.variations import Variation, variation, vary_experiments

REQUIRED = ("paper", "method", "metric", "direction", "margin", "seeds")
OF_BASELINE = ("baseline", "baseline_metric")
OF_PUBLISHED = ("published", "uncertainty", "printed", "vary", "tried")
OPTIONAL = ("name", "claimed", "predicted", "planned_seeds", "figure")
ONLY_A_FIGURE = {"method", "figure"}
TEXTS = ("name", "paper", "metric", "baseline_metric", "tried")
SWITCHES = ("claimed", "predicted", "printed")
NUMBERS = ("margin", "published", "uncertainty")
ABOVE = Path("runs/claims")


@dataclass(frozen=True)
class Claim:
    """A statement of a claim file, with the keys that `train.py claim --help` describes.

    Paths are relative to the working directory. A method that is compared with a published number has no baseline.
    """

    name: str
    paper: str
    method: Arm
    baseline: Arm | None
    metric: str
    direction: str
    margin: float
    seeds: tuple[int, ...]
    claimed: bool = True
    predicted: bool = True
    planned_seeds: tuple[int, ...] = ()
    baseline_metric: str | None = None
    published: float | None = None
    uncertainty: float | None = None
    printed: bool = False
    vary: Variation | None = None
    tried: str = ""

    @property
    def sides(self) -> list[tuple[Arm, str]]:
        """The method and, if there is one, the baseline, each with its metric."""
        own = [(self.method, self.metric)]
        return own + ([(self.baseline, self.baseline_metric or self.metric)] if self.baseline else [])


def entries_of(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the entries of a claim file, each with its place in error messages.

    An entry `defaults: {key: value}` is not yielded. The entries below it have its keys, unless they state their own.
    """
    if not path.is_file():
        raise FileNotFoundError(f"claim file {path} {'is not a file' if path.exists() else 'does not exist'}")
    content = parse_yaml(text_of(path), path)
    entries = content if isinstance(content, list) else [content]
    if all(isinstance(entry, Mapping) and set(entry) == {"defaults"} for entry in entries):
        raise ValueError(f"{path} contains no claim")
    number, defaults = 0, {}
    for entry in entries:
        if isinstance(entry, Mapping) and set(entry) == {"defaults"}:
            defaults = entry["defaults"]
            if not isinstance(defaults, Mapping):
                raise ValueError(f"{path}: defaults must be a mapping of keys of claims, got {defaults!r}")
            continue
        number += 1
        where = f"{path}, claim {number}" if len(entries) > 1 else str(path)
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where} must be a mapping with the keys {', '.join(REQUIRED)}")
        yield where, entry if set(entry) == ONLY_A_FIGURE else {**defaults, **entry}


def load_claims(path: Path) -> list[Claim]:
    """Read and check the statements of a claim file. Entries that have only a figure are left out."""
    return [_claim(entry, path, where) for where, entry in entries_of(path) if set(entry) != ONLY_A_FIGURE]


def _claim(entry: Mapping[str, object], path: Path, where: str) -> Claim:
    published = "published" in entry
    allowed = REQUIRED + (OF_PUBLISHED if published else OF_BASELINE) + OPTIONAL
    for key in entry:
        if key not in allowed:
            raise ValueError(f"{where}: unknown key {key}{choose_from(str(key), allowed, 'keys')}")
    for key in (*REQUIRED, *([] if published else ["baseline"])):
        if key not in entry:
            either = " (or published)" if key == "baseline" else ""
            raise ValueError(f"{where}: {key}{either} is missing; a claim has the keys {', '.join(allowed)}")
    values: dict[str, Any] = dict(entry)
    for key in (key for key in TEXTS if key in entry):
        if not isinstance(values[key], str) or not values[key].strip():
            raise ValueError(f"{where}: {key} must be a text, got {values[key]!r}")
    directions = ("higher", "lower", "equal") if published else ("higher", "lower")
    if values["direction"] not in directions:
        raise ValueError(f"{where}: direction must be {' or '.join(directions)}, got {values['direction']!r}")
    for key in (key for key in SWITCHES if not isinstance(values.get(key, True), bool)):
        raise ValueError(f"{where}: {key} must be true or false, got {values[key]!r}")
    for key in (key for key in NUMBERS if key in entry):
        values[key] = finite_number(entry[key])
        if values[key] is None:
            raise ValueError(f"{where}: {key} must be a number, got {entry[key]!r}")
        if published and key != "published" and values[key] < 0:
            raise ValueError(f"{where}: {key} must be at least 0, got {entry[key]!r}")
    for key, fewest in (("seeds", 1 if published else 2), ("planned_seeds", 1)):
        seeds = values.get(key, [0])
        if not isinstance(seeds, list) or not are_seeds(seeds) or len(seeds) < fewest:
            least = "at least 2 " if fewest == 2 else ""
            raise ValueError(f"{where}: {key} must be a list of {least}different whole numbers, got {seeds!r}")
        values[key] = tuple(seeds) if key in entry else ()
    arms = {
        key: stated_arm(values[key], path.parent, f"{where}: {key}") for key in ("method", "baseline") if key in entry
    }
    if arms["method"] == arms.get("baseline") and "baseline_metric" not in entry:
        raise ValueError(f"{where}: method and baseline must be two different configs, got {entry['method']} for both")
    if "vary" in entry:
        values["vary"] = _variation(entry["vary"], where)
    own = f"{path.resolve().parent.name}/{arms['method'].directory}"
    values.pop("figure", None)
    return Claim(**{"name": own, "baseline": None, **values, **arms})


def _variation(entry: object, where: str) -> Variation:
    key, values = next(iter(entry.items())) if isinstance(entry, Mapping) and len(entry) == 1 else ("", None)
    numbers = values if isinstance(values, list) else []
    if len(numbers) < FEWEST or not all((finite_number(each) or 0) > 0 for each in numbers):
        raise ValueError(f"{where}: vary must be a mapping of one key to a list of at least {FEWEST} positive numbers, "
                         f"got {entry!r}")  # fmt: skip
    try:
        return variation(f"{key}={','.join(map(str, numbers))}")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Place:
    """The claims in one folder, with their runs and their output directory.

    Args:
        claims: claims of the folder.
        experiments: experiments of each arm: one, or one for each value of the varied key.
        runs: all runs. A run that several claims share is listed once.
        output: output directory.
    """

    claims: list[Claim]
    experiments: dict[tuple[Arm, Variation | None], list[Experiment]]
    runs: list[Run]
    output: Path

    def runs_of(self, claim: Claim) -> list[Run]:
        """Return the runs of both sides of a claim."""
        own = {each for arm, _ in claim.sides for each in self.experiments[arm, claim.vary]}
        return [run for run in self.runs if run.experiment in own and run.seed in claim.seeds]

    @property
    def compared(self) -> list[Run]:
        """Runs that are compared with a baseline, which the tables of `compare` show."""
        own = [run for claim in self.claims if claim.baseline for run in self.runs_of(claim)]
        return [run for run in self.runs if run in own]

    def cpu_seconds(self, claim: Claim) -> Path:
        """Return the file with the CPU seconds of the runs of a claim."""
        first = self.experiments[claim.method, claim.vary][0]
        return self.output / first.config_name / "cpu_seconds.txt"

    def cpu_hours(self, claim: Claim) -> float | None:
        """Return the CPU time of the runs of a claim, or None if it is not recorded."""
        path = self.cpu_seconds(claim)
        return round(sum(map(float, text_of(path).split())) / 3600, 3) if path.is_file() else None


def place(claims: Sequence[Claim], output: Path) -> Place:
    """Plan the runs of the claims in a folder, and check the output directory. Shared runs are planned only once."""
    arms = list(dict.fromkeys(arm for claim in claims for arm, _ in claim.sides))
    loaded = dict(zip(arms, load_experiments(arms), strict=True))
    experiments: dict[tuple[Arm, Variation | None], list[Experiment]] = {}
    planned: dict[Experiment, tuple[Arm, set[int]]] = {}
    for claim in claims:
        for arm, _ in claim.sides:
            try:
                own = vary_experiments([loaded[arm]], [claim.vary] if claim.vary else [])
            except ValueError as error:
                raise ValueError(f"claim {claim.name}: {error}") from None
            experiments[arm, claim.vary] = own
            for each in own:
                planned.setdefault(each, (arm, set()))[1].update(claim.seeds)
    runs = [
        Run(experiment, seed, output / experiment.name / f"seed_{seed}", arm.command)
        for seed in sorted({seed for _, seeds in planned.values() for seed in seeds})
        for experiment, (arm, seeds) in planned.items()
        if seed in seeds
    ]
    for run in runs:
        check(run)
    return Place(list(claims), experiments, runs, output)


def check_metrics(run: Run, places: Sequence[Place]) -> None:
    """Raise an error if a finished run lacks the metric of a claim. Call this function before other runs start."""
    for found in (place for place in places if run in place.runs):
        for claim in found.claims:
            for arm, metric in claim.sides:
                if run.experiment not in found.experiments[arm, claim.vary]:
                    continue
                results = collect([run], [metric])
                known = [result.metric for result in results]
                if metric not in known and not any(result.diverged for result in results):
                    reason = f"{run.title} has no metric {metric}{choose_from(metric, known)}"
                    raise ValueError(f"claim {claim.name}: {reason}")


def try_metrics(places: Sequence[Place], metrics_of: Callable[[Sequence[str]], Collection[str] | None]) -> None:
    """Raise an error if the metric of a claim seems misspelt, given the metrics of a short run of the method.

    Args:
        places: claims to check. Claims whose method has a finished run are skipped, because `check_metrics` checks
            them. Methods that are not trained are skipped, too.
        metrics_of: function that runs `fit` with the given arguments for a short time and returns the names of the
            metrics, or None if the run failed.
    """
    known: dict[Experiment, Collection[str] | None] = {}
    for found in places:
        for claim in found.claims:
            experiment = found.experiments[claim.method, claim.vary][0]
            own = [run for run in found.runs if run.experiment == experiment]
            if any(run.finished or run.command != "fit" for run in own):
                continue
            if experiment not in known:
                known[experiment] = metrics_of(["--config", str(experiment.config), *experiment.overrides])
            metrics = known[experiment]
            if metrics is not None and claim.metric not in metrics and misspelt(claim.metric, metrics):
                tested = [each for each in metrics if "test/" in each]
                reason = f"{experiment.title} has no metric {claim.metric}{choose_from(claim.metric, tested)}"
                raise ValueError(f"claim {claim.name}: {reason}")


def select_claims(named: Sequence[str]) -> dict[Path, list[Claim]]:
    """Read the claims of files, or single claims by their names, by the folder of their file."""
    claims: dict[Path, list[Claim]] = {}
    for each in named:
        file = locate_config(Path(each))
        if os.path.exists(file) or file.suffix in (".yaml", ".yml"):
            found = {file.resolve().parent: load_claims(relative(file.resolve()))}
        else:
            every = ((path, load_claims(relative(path))) for path in sorted(PROJECT.glob("configs/*/claim.yaml")))
            found = {path.parent: own for path, loaded in every if (own := [one for one in loaded if one.name == each])}
            if not found:
                raise ValueError(f"there is no claim file and no claim with the name {each!r}")
        for folder, own in found.items():
            claims[folder] = list(dict.fromkeys([*claims.get(folder, []), *own]))
    return claims


def plan_claims(named: Sequence[str | Path], output: Path | None) -> list[Place]:
    """Read claims and plan their runs, with one `Place` per folder."""
    claims = select_claims([str(each) for each in named])
    if output and len(claims) == 1:
        return [place(each, output) for each in claims.values()]
    above = output or ABOVE
    return [place(each, above / name) for each, name in zip(claims.values(), unique_names(list(claims)), strict=True)]


def commands_of(claims: Sequence[Claim], program: str) -> Iterator[str]:
    """Yield the command that runs each arm of the claims with its first seed, below the names of the claims."""
    for claim in claims:
        yield f"# {claim.name}"
        for arm, _ in claim.sides:
            for value in claim.vary.values if claim.vary else [""]:
                varied = (f"--{key} {value}" for key in (claim.vary.keys if claim.vary else ()))
                yield " ".join([command_of(arm, claim.seeds[0], program), *varied])


def command_of(arm: Arm, seed: int, program: str) -> str:
    """Return the command that runs an arm alone. With the command `train`, it is not tested."""
    tested = " --test_after_fit true" * (arm.command == "fit")
    return f"{program} {arm.command.replace('train', 'fit')} --config {arm} --seed_everything {seed}{tested}"
