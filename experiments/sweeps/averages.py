"""Average over configurations that have different metrics, such as GLUE's average over its tasks."""

import math
from collections.abc import Mapping, Sequence

from experiments.results import Result
from experiments.run_request import Experiment

Parts = Mapping[str, Sequence[str]]
"""Names of metrics, by the name of their configuration."""


def parts_of(texts: Sequence[str], experiments: Sequence[Experiment]) -> Parts:
    """Parse texts of the form `CONFIG:METRIC` or `CONFIG:METRIC+METRIC`.

    Raises:
        ValueError: if a text has a different form, names a configuration twice, or names a configuration that is not
            compared.
    """
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

    Raises:
        ValueError: if the runs of a configuration lack a metric.
    """
    values = {(result.config, result.metric, result.seed): result.value for result in results}
    found: dict[tuple[str, int], list[float]] = {}
    for each in experiments:
        names = {metric for config, metric, _ in values if config == each.title}
        own = [one if one in names else f"test/{one}" for one in parts.get(each.config_name, ())]
        if missing := [one for one in own if names and one not in names]:
            raise ValueError(f"--average: {each.name} has no {missing[0]}; it has {', '.join(sorted(names))}")
        setting = ", ".join(f"{key} {value}" for key, value in each.setting)
        for seed in dict.fromkeys(result.seed for result in results if own and result.config == each.title):
            numbers = [values.get((each.title, metric, seed), math.nan) for metric in own]
            found.setdefault((setting, seed), []).append(sum(numbers) / len(numbers))
    return [
        Result(setting, "average", seed, sum(numbers) / len(numbers))
        for (setting, seed), numbers in found.items()
        if len(numbers) == len(parts)
    ]
