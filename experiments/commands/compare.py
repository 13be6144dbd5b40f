"""Train and test several configurations over several seeds, and compare the results.

    python train.py compare configs/elr/demo.yaml configs/elr/demo_baseline.yaml --seeds 0 1 2 -- --trainer.max_epochs 5

A configuration may have overrides of its own: "configs/elr/demo.yaml --model.strength 1".
Arguments after `--` are appended to `train.py fit --config CONFIG` in every run. Each run is a separate process. If the
command is repeated, finished runs are kept and unfinished runs are resumed.

To obtain a table of methods over settings, vary a key with --vary, in all configs or only in configs with a given file
name. The table has one row for each config, and one column for each value of the key. If every folder has one method
and the same file names, the table has one row for each folder, and columns for its files:

    python train.py compare configs/{cross_entropy,elr,elr_plus}/cifar{10,100}.yaml --seeds 0 1 2 \\
        --vary cifar10:data.label_noise.noise_rate=0.2,0.4,0.6,0.8

table.png shows lines if one key varies, and heat maps if two keys vary. `--fit KEY` fits power laws in a varied key:

    python train.py compare configs/elr/demo.yaml --seeds 0 1 2 --vary model.optimizer.lr=0.01,0.03,0.1,0.3 --fit lr

`--average` averages over configs. For each config, give a metric, or several metrics whose mean is used:

    python train.py compare TASK.yaml OTHER.yaml --seeds 0 1 2 --average TASK:accuracy OTHER:pearson+spearman

The best mean of each metric is in bold. Each config is compared with the first config, over the seeds of both, by the
mean difference and p of a two-sided paired t-test. An asterisk marks p < 0.05. For a paper, give a --format:

    python train.py compare configs/elr/demo.yaml configs/elr/demo_baseline.yaml --seeds 0 1 2 --format latex

Figures are PNG files, or with `--figure_format pdf`, PDF files in the width of one column (3.25 inches).
The output directory contains summary.csv, runs.csv, summary.md, comparison.png and curves.png. The columns of
summary.csv are config, metric, mean, std, seeds, the numbers of seeds that diverged or have no finite value, and the
difference from the first config with its std, its number of pairs and p. The columns of runs.csv are config, metric,
seed and value. With several settings, the output directory also contains table.csv and table.png; with --fit,
exponents.csv and exponents.png; and with --average, average.csv. The directory of a run is <config>/seed_<seed>/ or
<config>/<key>=<value>/seed_<seed>/.
"""

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.arguments import ArgumentParser, add_figure_format, seed
from experiments.claims.arms import arm
from experiments.compare import collect, default_output, plan_runs, show, write_comparison
from experiments.launching.launchers import add_arguments, launcher
from experiments.launching.preflight import PREFLIGHT, preflight
from experiments.launching.run_queue import TRAIN, lock, print_failures, run_all
from experiments.paper.formats import FORMATS, TextTable, print_table
from experiments.results import Result, chosen, summarise, terminal, write_results
from experiments.run_request import Experiment, load_experiments
from experiments.sweeps.fits import keys_to_fit
from experiments.sweeps.variations import variation, vary_experiments

Parts = Mapping[str, Sequence[str]]
"""Names of metrics, by the name of their configuration."""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("configs", metavar="CONFIG", nargs="+", type=arm, help="YAML files, or 'FILE --key value'")
    parser.add_argument("--seeds", nargs="+", type=seed, required=True, help="for example 0 1 2")
    parser.add_argument("--output", type=Path, help="default: runs/compare/<folder>/<config>-vs-<config>")
    add_arguments(parser)
    parser.add_argument(
        "--vary", action="append", default=[], metavar="[CONFIG:]KEY=VALUE,...", help="a key and its values"
    )
    parser.add_argument(
        "--metrics",
        type=lambda text: text.split(","),
        default=[],
        metavar="METRIC,...",
        help="metrics in tables and curves; default: all test metrics in tables, training metrics in curves",
    )
    parser.add_argument("--fit", action="append", default=[], metavar="KEY", help="fit power laws in a key of --vary")
    parser.add_argument(
        "--average", nargs="+", default=[], metavar="CONFIG:METRIC", help="average over configs, with a metric for each"
    )
    parser.add_argument("--format", choices=FORMATS, help="print the tables alone in this form, and the rest to stderr")
    add_figure_format(parser)
    parser.takes_overrides = True


def run(options: Namespace, run_command: Sequence[str] = TRAIN, preflight_command: Sequence[str] | None = None) -> int:
    """Run all unfinished runs, and show the results of all runs.

    Args:
        options: parsed arguments.
        run_command: command to which `fit ...` is appended.
        preflight_command: command that instantiates every experiment before the first run. None means the default
            command if `run_command` is the default, and otherwise no command.

    Returns:
        The exit status. It is 0 for success, and 1 if a run failed.
    """
    console = terminal(stderr=options.format is not None)
    repeated = next((seed for i, seed in enumerate(options.seeds) if seed in options.seeds[:i]), None)
    if repeated is not None:
        raise ValueError(f"--seeds has {repeated} twice; each seed must be given once")
    variations = [variation(text) for text in options.vary]
    fit = keys_to_fit(options.fit, variations)
    experiments = vary_experiments(load_experiments(options.configs, options.overrides), variations, options.overrides)
    parts = parts_of(options.average, experiments)
    output = options.output or default_output(options.configs)
    runs = plan_runs(experiments, options.seeds, output)
    engine = launcher(options, experiments, output / "slurm")
    if preflight_command or run_command is TRAIN:
        preflight(runs, preflight_command or PREFLIGHT, engine)
    if options.metrics:
        chosen(collect(runs, options.metrics), options.metrics)
    with lock([output]) as locks:
        failures = run_all(runs, launcher=engine, console=console, locks=locks, run_command=run_command)
        show(
            write_comparison(runs, output, options.metrics, fit, options.figure_format),
            output,
            console,
            options.format,
        )
        if means := summarise(averages(collect(runs), experiments, parts)):
            rows = [(each.config, each.mean, each.std, each.seeds) for each in means]
            write_results(output / "average.csv", ["setting", "mean", "std", "seeds"], rows)
            shown = [[each.config or "as configured", str(each)] for each in means]
            average = TextTable("average of configs", ["setting", "mean ± std"], shown)
            print_table(average, console, None if options.format == "csv" else options.format)
    print_failures(failures, console)
    return 1 if failures else 0


def parts_of(texts: Sequence[str], experiments: Sequence[Experiment]) -> Parts:
    """Parse texts of the form `CONFIG:METRIC` or `CONFIG:METRIC+METRIC`."""
    parts: dict[str, Sequence[str]] = {}
    known = list(dict.fromkeys(each.config_name for each in experiments))
    for text in texts:
        config, _, metrics = text.rpartition(":")
        if config not in known or config in parts or not all(metrics.split("+")):
            raise ValueError(
                f"--average {text} must be CONFIG:METRIC or CONFIG:METRIC+METRIC, where each CONFIG is given "
                f"once and is one of {', '.join(known)}"
            )
        parts[config] = metrics.split("+")
    return parts


def averages(results: Sequence[Result], experiments: Sequence[Experiment], parts: Parts) -> list[Result]:
    """Average over configurations, for each setting of the varied keys and each seed with results of all configs.

    If a configuration has several metrics, they are averaged first.

    Args:
        results: metrics of finished runs.
        experiments: compared experiments.
        parts: metrics of each configuration, with or without a stage.

    Returns:
        Results of the metric `average`. The `config` of a result is the setting of the varied keys.
    """
    values = {(result.config, result.metric, result.seed): result.value for result in results}
    found: dict[tuple[str, int], list[float]] = {}
    for each in experiments:
        names = {metric for config, metric, _ in values if config == each.title}
        own = [one if one in names else f"test/{one}" for one in parts.get(each.config_name, ())]
        if missing := [one for one in own if names and one not in names]:
            raise ValueError(f"--average: {each.name} has no {missing[0]}; it has {', '.join(sorted(names))}")
        setting = ", ".join(f"{key} {value}" for key, value in each.setting)
        for one in dict.fromkeys(result.seed for result in results if own and result.config == each.title):
            numbers = [values.get((each.title, metric, one), math.nan) for metric in own]
            found.setdefault((setting, one), []).append(sum(numbers) / len(numbers))
    return [
        Result(setting, "average", one, sum(numbers) / len(numbers))
        for (setting, one), numbers in found.items()
        if len(numbers) == len(parts)
    ]
