"""A study: its trials, in one file from which a killed study continues.

The file `trials.csv` is replaced as a whole when a trial starts and when it ends. It has one row per trial, with the
settings and the result. Intermediate values are read from the `metrics.csv` of each trial. The sampler has no other
state: the settings of trial n are a function of the earlier trials, the seed and n.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.files.whole_files import write_text
from experiments.claims.arms import short_names
from experiments.config_files import dump_yaml, flatten_settings, load_yaml, mapping_of
from experiments.results import choose_from, read_csv, read_curves, read_test_metrics, write_results
from experiments.tuning.search import Metric, Search

if TYPE_CHECKING:
    import optuna

STATES = ("running", "complete", "pruned", "failed")
FIRST_LIMITS = 5
"""Number of complete trials from which limits are computed. Below, no trial is pruned."""
ATTEMPTS = 50
"""Number of samples after which a trial may repeat the settings of an earlier trial."""


@dataclass
class Trial:
    """Settings and results of one run.

    Args:
        number: position in the study.
        settings: value of each searched key, written as on the command line.
        state: one of `STATES`.
        values: value of each metric. It is empty for running and failed trials.
        epochs: number of epochs in which the first metric was logged.
        reason: why the trial failed.
        curve: first metric by epoch.
    """

    number: int
    settings: tuple[str, ...]
    state: str = "running"
    values: tuple[float, ...] = ()
    epochs: int = 0
    reason: str = ""
    curve: Mapping[int, float] = field(default_factory=dict)


class Study:
    """Trials of a search.

    Args:
        folder: folder of the study, with a folder for each trial.
        searches: keys to search.
        metrics: metrics to optimise. With several metrics, no trial is pruned.
        seed: seed of the sampler.
    """

    def __init__(self, folder: Path, searches: Sequence[Search], metrics: Sequence[Metric], seed: int) -> None:
        self.folder, self.searches, self.metrics, self.seed = folder, tuple(searches), tuple(metrics), seed
        names = [each.name for each in metrics]
        self.columns = ["trial", "state", "epochs", *names, *(each.key for each in searches), "reason"]
        self.trials = [self._read(number, row) for number, row in enumerate(read_csv(self.path))]
        self.noisy = any(self._marks(each).get("noisy_validation_labels") for each in self.trials)

    @property
    def path(self) -> Path:
        return self.folder / "trials.csv"

    @property
    def short_names(self) -> list[str]:
        """Short names of the keys for tables and figures."""
        return list(short_names([each.key for each in self.searches]).values())

    def directory(self, trial: Trial) -> Path:
        """Return the run directory of a trial."""
        return self.folder / f"trial_{trial.number}"

    def _read(self, number: int, row: Mapping[str, str]) -> Trial:
        if list(row) != self.columns:
            raise ValueError(
                f"{self.path} has the columns {', '.join(map(str, row))}, but this search has "
                f"{', '.join(self.columns)}: choose another --output"
            )
        try:
            settings = tuple(row[each.key] for each in self.searches)
            for each, text in zip(self.searches, settings, strict=True):
                each.value(text)
            ended = row["state"] in ("complete", "pruned")
            values = tuple(float(row[each.name]) for each in self.metrics) if ended else ()
            if row["state"] not in STATES or int(row["trial"]) != number:
                raise ValueError(f"trial {row['trial']} is {row['state']}")
            trial = Trial(number, settings, row["state"], values, int(row["epochs"]), row["reason"])
        except ValueError as error:
            raise ValueError(
                f"{self.path} does not fit this search ({error}): choose another --output, or remove that folder"
            ) from None
        if ended:
            trial.curve = self._curve(trial)
        return trial

    def save(self) -> None:
        """Replace `trials.csv`."""
        nothing = ("",) * len(self.metrics)
        rows = [
            (each.number, each.state, each.epochs, *(each.values or nothing), *each.settings, each.reason)
            for each in self.trials
        ]
        write_results(self.path, self.columns, rows)

    def ask(self) -> Trial:
        """Choose the settings of the next trial, and record it as running."""
        import numpy as np
        import optuna

        number, tried = len(self.trials), {each.settings for each in self.trials}
        for attempt in range(ATTEMPTS):
            seed = int(np.random.SeedSequence([self.seed, number, attempt]).generate_state(1)[0])
            sampler = optuna.samplers.TPESampler(seed=seed)
            asked = self.optuna(sampler).ask({each.key: each.distribution for each in self.searches})
            settings = tuple(each.text(asked.params[each.key]) for each in self.searches)
            if settings not in tried:
                break
        trial = Trial(number, settings)
        self.trials.append(trial)
        self.save()
        return trial

    def limits(self) -> dict[int, float]:
        """Compute the median of the first metric over the complete trials, for each epoch but the last."""
        from statistics import median

        curves = [each.curve for each in self.trials if each.state == "complete"]
        epochs = sorted({epoch for curve in curves for epoch in curve})[:-1]
        known = {epoch: [curve[epoch] for curve in curves if epoch in curve] for epoch in epochs}
        return {epoch: median(values) for epoch, values in known.items() if len(values) >= FIRST_LIMITS}

    def end(self, trial: Trial) -> None:
        """Record the result of a trial whose run has ended. A trial whose metric is not finite has failed."""
        values = tested_values(self.directory(trial), [each.name for each in self.metrics])
        marks = self._marks(trial)
        self.noisy = self.noisy or bool(marks.get("noisy_validation_labels"))
        trial.curve = self._curve(trial)
        trial.epochs = len(trial.curve)
        if all(map(math.isfinite, values)):
            trial.state, trial.values = "pruned" if marks["pruned"] else "complete", tuple(values)
        else:
            self.fail(trial, "a metric is not finite")
        self.save()

    def fail(self, trial: Trial, reason: str) -> None:
        """Record a failed trial."""
        trial.state, trial.reason = "failed", reason
        self.save()

    def _marks(self, trial: Trial) -> dict[str, float]:
        path = self.directory(trial) / "trained.csv"
        return read_test_metrics(path) if path.is_file() else {}

    def _curve(self, trial: Trial) -> Mapping[int, float]:
        return read_curves(self.directory(trial) / "metrics.csv").get(self.metrics[0].name, {})

    def of_state(self, state: str) -> list[Trial]:
        return [each for each in self.trials if each.state == state]

    def best(self) -> list[Trial]:
        """Return the complete trials from best to worst or, with several metrics, the Pareto front."""
        complete = self.of_state("complete")
        if len(self.metrics) == 1:
            return sorted(complete, key=lambda each: -self.metrics[0].sign * each.values[0])
        goals = {t.number: [m.sign * v for m, v in zip(self.metrics, t.values, strict=True)] for t in complete}
        front = [t for t in complete if not any(dominates(each, goals[t.number]) for each in goals.values())]
        return sorted(front, key=lambda each: -self.metrics[0].sign * each.values[0])

    def optuna(self, sampler: "optuna.samplers.BaseSampler | None" = None) -> "optuna.Study":
        """Return the trials so far as a study of Optuna, in memory."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        ways = {"min": optuna.study.StudyDirection.MINIMIZE, "max": optuna.study.StudyDirection.MAXIMIZE}
        study = optuna.create_study(directions=[ways[each.mode] for each in self.metrics], sampler=sampler)
        states = dict(zip(STATES, ("RUNNING", "COMPLETE", "PRUNED", "FAIL"), strict=True))
        study.add_trials(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[states[each.state]],
                values=list(each.values) if each.state == "complete" else None,
                params={s.key: s.value(text) for s, text in zip(self.searches, each.settings, strict=True)},
                distributions={s.key: s.distribution for s in self.searches},
                intermediate_values=dict(each.curve) if len(self.metrics) == 1 else None,
            )
            for each in self.trials
        )
        return study

    def write_layers(self, config: str) -> list[Path]:
        """Write the best settings as a layer for `fit`: `best.yaml` or, for a Pareto front, a file for each trial."""
        best = self.best()
        one = len(self.metrics) == 1
        chosen = best[:1] if one else best
        paths = [self.folder / ("best.yaml" if one else f"front/trial_{each.number}.yaml") for each in chosen]
        for path in (self.folder / "front").glob("trial_*.yaml"):
            path.unlink()
        for path, trial in zip(paths, chosen, strict=True):
            path.parent.mkdir(exist_ok=True)
            own = mapping_of(self.directory(trial) / "config.yaml")
            result = ", ".join(f"{m.name} {v:.6g}" for m, v in zip(self.metrics, trial.values, strict=True))
            layer = {
                full_key(own, key): load_yaml(text) if each.kind == "choice" else each.value(text)
                for each, text in zip(self.searches, trial.settings, strict=True)
                for key in each.key.split("+")
            }
            write_text(path, f"# Trial {trial.number} of a search over {config}: {result}\n{dump_yaml(layer)}")
        return paths


def tested_values(directory: Path, names: Sequence[str]) -> list[float]:
    """Read metrics of a run at the epoch of the checkpoint that `test` would load: the last one or the best one."""
    curves = read_curves(directory / "metrics.csv")
    known = [name for name in curves if "test/" not in name]
    if missing := next((each for each in names if each not in known), None):
        raise ValueError(
            f"--metric {missing}: {directory.name.replace('_', ' ')} did not log it{choose_from(missing, known)}"
        )
    settings = flatten_settings(mapping_of(directory / "config.yaml"))
    monitored = curves.get(str(settings.get("checkpoint.monitor")))
    at = math.inf
    if settings.get("checkpoint.test_checkpoint") == "best" and monitored:
        choose = max if settings.get("checkpoint.mode", "max") == "max" else min
        at = choose(monitored, key=monitored.__getitem__)
    return [own[max(e for e in own if e <= max(at, min(own)))] for own in (curves[name] for name in names)]


def dominates(goals: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether goals, which should be large, are at least as good as others, and one of them is better."""
    return goals != others and all(goal >= other for goal, other in zip(goals, others, strict=True))


def full_key(settings: Mapping[str, Any], key: str) -> str:
    """Insert the parts `init_args` that a dotted key of the command line leaves out."""
    parts: list[str] = []
    here: Any = settings
    for part in key.split("."):
        if isinstance(here, Mapping) and part not in here and part != "init_args" and "init_args" in here:
            parts.append("init_args")
            here = here["init_args"]
        parts.append(part)
        here = here.get(part) if isinstance(here, Mapping) else None
    return ".".join(parts)
