"""Search the settings of a configuration that give the best validation metrics, by trials that learn from each other.

    python train.py tune configs/elr/demo.yaml --search model.strength=log:0.1:10 \\
        --search model.optimizer.lr=log:1e-3:1 --metric val/accuracy --trials 50 --jobs 2

The search of a key is log:LOW:HIGH, float:LOW:HIGH, int:LOW:HIGH or choice:VALUE,VALUE,... Keys joined by + have the
same value. Arguments after `--` are appended to every run. Each trial is a run of `fit` without a test, because test
metrics may not choose settings. If the command is repeated, it continues: ended trials are kept, running trials resume,
and a larger --trials adds trials.

Known metrics have a known direction, such as val/loss; for others, write --metric val/score:max or val/score:min. The
value of a trial is that of the checkpoint which `test` would load. With one metric, a trial ends early if its best
value so far is worse than the median of the complete trials at that epoch. Several --metric give a Pareto front.

The output directory contains trials.csv, study.png, a run directory for each trial, and best.yaml, a layer for
`fit --config CONFIG --config best.yaml`. A Pareto front has one such layer for each of its trials, in front/.
"""

import math
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from experiments.arguments import COMMAND, ArgumentParser, positive_number, seed
from experiments.claims.arms import arm
from experiments.launching.launchers import add_arguments, launcher
from experiments.launching.preflight import PREFLIGHT, metrics_of_short_run, preflight
from experiments.launching.run_queue import TRAIN, Failure, lock, print_failures, run_all
from experiments.results import choose_from, misspelt, table, terminal, write_results
from experiments.run_request import Experiment, Run, check, load_experiments
from experiments.tuning.search import Search, check_keys, parse_metric, parse_search
from experiments.tuning.study import STATES, Study, Trial

SHOWN = 10
"""Number of trials in the table of the terminal."""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", type=arm, help="YAML file, or 'FILE --key value'")
    parser.add_argument("--search", action="append", required=True, metavar="KEY=KIND:...", help="a key to search")
    parser.add_argument("--metric", action="append", required=True, metavar="METRIC[:max|:min]", help="goal")
    parser.add_argument("--trials", type=positive_number, required=True, help="number of trials, with earlier ones")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the search and of each run (default: 0)")
    parser.add_argument("--output", type=Path, help="default: runs/tune/<folder>/<config>")
    parser.add_argument("--no_pruning", action="store_true", help="train bad trials to the end, too")
    add_arguments(parser)
    parser.takes_overrides = True


def run(options: Namespace, run_command: Sequence[str] = TRAIN, preflight_command: Sequence[str] | None = None) -> int:
    """Run the trials that are missing, and show the results of all trials.

    Args:
        options: parsed arguments.
        run_command: command to which `fit ...` is appended.
        preflight_command: command that instantiates the ends of all ranges before the first trial. None means the
            default command if `run_command` is the default, and otherwise no command.

    Returns:
        The exit status. It is 0 if a trial is complete, and 1 if none is.
    """
    if find_spec("optuna") is None:
        raise ValueError("tune needs optuna: pip install 'noiseworks[tune]'")
    metrics, searches = [parse_metric(each) for each in options.metric], [parse_search(each) for each in options.search]
    check_keys(searches)
    if options.launcher != "local" and options.jobs is None:
        raise ValueError(f"--launcher {options.launcher} needs --jobs: trials learn only from trials that have ended")
    [experiment] = load_experiments([options.config], options.overrides)
    output = options.output or Path("runs/tune", experiment.config.resolve().parent.name, experiment.name)
    study = Study(output, searches, metrics, options.seed)
    trials = max(len(study.trials), int(min(options.trials, math.prod(each.count for each in searches))))
    engine = launcher(options, [experiment], output / "slurm")
    if (preflight_command or run_command is TRAIN) and len(study.trials) < trials:
        preflight([Run(each, options.seed, output / each.name) for each in ends(experiment, searches)],
                  preflight_command or PREFLIGHT, engine)  # fmt: skip
    if run_command is TRAIN and not study.of_state("complete"):
        known = metrics_of_short_run(["--config", str(experiment.config), *experiment.overrides], engine=engine) or []
        for each in metrics:
            if each.name not in known and misspelt(each.name, known):
                raise ValueError(f"--metric: nothing logs {each.name}{choose_from(each.name, known)}")
    console = terminal()
    with lock([output]) as locks:
        study = Study(output, searches, metrics, options.seed)
        plan = Plan(study, experiment, not options.no_pruning and len(metrics) == 1)
        kept = [plan.run_of(each) for each in study.trials]
        for own in kept:
            check(own)
        running = [kept[each.number] for each in study.of_state("running")]
        left = len(running) + trials - len(study.trials)
        if ended := len(kept) - len(running):
            console.print(f"{ended} of {trials} trials have ended before and are kept")
        failures = run_all(
            running, launcher=engine, console=console, locks=locks, run_command=run_command, look_at=plan.end,
            later=plan.runs(trials), total=left, most=options.jobs or math.inf, failed=plan.fail,
        )  # fmt: skip
        if best := study.best():
            show(study, best, options, console)
    print_failures(failures, console)
    return 0 if best else 1


def ends(experiment: Experiment, searches: Sequence[Search]) -> list[Experiment]:
    """Return an experiment for each end of each range and each choice; the other keys are as configured."""
    return [
        replace(experiment, name=f"{each.key}={end}", overrides=(*experiment.overrides, *each.arguments(end)))
        for each in searches
        for end in each.ends
    ]


@dataclass(frozen=True)
class Plan:
    """The runs of a study.

    Args:
        study: the study.
        experiment: experiment whose settings are searched.
        prunes: whether bad trials end early.
    """

    study: Study
    experiment: Experiment
    prunes: bool

    def run_of(self, trial: Trial) -> Run:
        searches, metric = self.study.searches, self.study.metrics[0]
        mark = f"{{class_path: callbacks.trials.PruneTrial, init_args: {{metric: {metric.name}, mode: {metric.mode}}}}}"
        own = [part for each, text in zip(searches, trial.settings, strict=True) for part in each.arguments(text)]
        named = replace(
            self.experiment,
            name=f"trial_{trial.number}",
            label=f"trial {trial.number}:",
            overrides=(*self.experiment.overrides, *own, "--trainer.callbacks+", mark),
            setting=tuple(zip(self.study.short_names, trial.settings, strict=True)),
        )
        return Run(named, self.study.seed, self.study.directory(trial), "train")

    def runs(self, trials: int) -> Iterator[Run]:
        """Choose further trials, each when its run can start."""
        while len(self.study.trials) < trials:
            trial = self.study.ask()
            if self.prunes and (limits := self.study.limits()):
                write_results(self.study.directory(trial) / ".limits.csv", ["epoch", "limit"], limits.items())
            yield self.run_of(trial)

    def end(self, run: Run) -> None:
        self.study.end(self._trial(run))

    def fail(self, failure: Failure) -> None:
        last = failure.log.rpartition("\n")[2]
        self.study.fail(self._trial(failure.run), f"{failure.reason}: {last}"[:300] if last else failure.reason)

    def _trial(self, run: Run) -> Trial:
        return self.study.trials[int(run.experiment.name.removeprefix("trial_"))]


def show(study: Study, best: Sequence[Trial], options: Namespace, console: Console) -> None:
    """Print the best trials, write the figure and the layers, and print the command that uses them."""
    from experiments.tuning.figures import draw_study

    counts = [f"{len(own)} {state}" for state in STATES[1:] if (own := study.of_state(state))]
    note = " (on noisy labels)" if study.noisy else ""
    header = ["trial", *(each.label + note * each.name.startswith("val/") for each in study.metrics)]
    rows = [
        [str(each.number), *(f"{value:.4g}" for value in each.values), *each.settings, str(each.epochs)]
        for each in best[:SHOWN]
    ]
    what = "best trials" if len(study.metrics) == 1 else "Pareto front"
    console.print(table(f"{what} of {', '.join(counts)}", [*header, *study.short_names, "epochs"], rows))
    if study.noisy:
        console.print("The validation labels are noisy: some of them may be false, and so may be the order of trials.")
    draw_study(study, study.folder / "study.png")
    layers = study.write_layers(str(options.config))
    for path in [study.path, study.folder / "study.png"]:
        console.print(str(path), markup=False, soft_wrap=True)
    layer = ["--config", str(layers[0]), "--seed_everything", str(study.seed), "--test_after_fit", "true"]
    command = [*COMMAND.split(), "fit", *options.config.arguments, *options.overrides, *layer]
    console.print(shlex.join(command), markup=False, soft_wrap=True)
