"""Vary configuration keys over several values, for `compare --vary`.

    --vary data.label_noise.noise_rate=0.2,0.4,0.6,0.8              in every config
    --vary 'cifar10:data.label_noise.noise_rate=0.2,0.4,0.6,0.8'    in configs of this name; * matches anything

Keys are dotted names as on the command line, and `init_args` may be omitted. A key can be varied even if the config
does not set it. Values are written in YAML and separated by commas; commas within brackets do not separate values. If
several keys vary in one config, all combinations are run. To give several keys the same value, join them by +, as in
model.dim+data.table.dim=5,10. The variation is then named after the first key.
"""

import fnmatch
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from experiments.claims.arms import in_a_file_name, short_names
from experiments.config_files import plain, settings_of
from experiments.run_request import RESERVED, Experiment


@dataclass(frozen=True)
class Variation:
    """A configuration key and the values to run.

    Args:
        pattern: pattern that config names match, with or without folders. `*` matches all configs.
        key: dotted name of the key.
        values: values of the key, written as on the command line.
        joined: additional keys that always have the same value as `key`.
    """

    pattern: str
    key: str
    values: tuple[str, ...]
    joined: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key, *self.joined)

    def applies_to(self, config: Path) -> bool:
        path = config.resolve().with_suffix("")
        return any(fnmatch.fnmatchcase("/".join(path.parts[-depth:]), self.pattern) for depth in (1, 2, 3))


def variation(text: str) -> Variation:
    """Parse a text of the form `[CONFIG:]KEY=VALUE,VALUE,...`."""
    name, _, listed = text.partition("=")
    pattern, _, key = name.rpartition(":")
    written = listed_values(listed)
    keys = key.split("+")
    named = all(re.fullmatch(r"\w+(\.\w+)*", each) for each in keys)
    if not named or not written:
        raise ValueError(f"--vary {text} must be KEY=VALUE,VALUE,... or CONFIG:KEY=VALUE,VALUE,...")
    for each in keys:
        if each in RESERVED:
            raise ValueError(f"--vary cannot set {each}: {RESERVED[each]} sets it for each run")
    repeated = next((value for i, value in enumerate(written) if value in written[:i]), None)
    if repeated is not None:
        raise ValueError(f"--vary {key} has {repeated} twice")
    return Variation(pattern or "*", keys[0], written, tuple(keys[1:]))


def listed_values(text: str) -> tuple[str, ...]:
    """Split YAML values at the commas outside of brackets. The result is empty if the text is not a list of values."""
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        return ()
    listed = values if isinstance(values, list) else []
    return tuple(value if isinstance(value, str) else json.dumps(value) for value in listed)


def vary_experiments(
    experiments: Sequence[Experiment], variations: Sequence[Variation], fixed: Sequence[str] = ()
) -> list[Experiment]:
    """Replace each experiment with one experiment per combination of the values that apply to it.

    The new names are `<name>/<key>=<value>`, in which `<key>` is the shortest unambiguous ending of the key's dotted
    name.

    Args:
        experiments: experiments to vary. A variation replaces their own overrides of its keys.
        variations: keys and values.
        fixed: overrides of all experiments, whose keys cannot vary.
    """
    for each in variations:
        if not any(each.applies_to(experiment.config) for experiment in experiments):
            known = ", ".join(experiment.name for experiment in experiments)
            raise ValueError(f"--vary {each.pattern}:{each.key} applies to no config; the configs are {known}")
    short = short_names([each.key for each in variations])
    every = [each for experiment in experiments for each in _combinations(experiment, variations, short, fixed)]
    names = [each.name for each in every]
    alike = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if alike is not None:
        raise ValueError(f"--vary: two values give runs the same name, {alike}")
    return every


def _combinations(
    experiment: Experiment, variations: Sequence[Variation], short: dict[str, str], fixed: Sequence[str]
) -> Iterator[Experiment]:
    own = [each for each in variations if each.applies_to(experiment.config)]
    keys = [(each, key) for each in own for key in each.keys]
    for each, key in keys:
        if [plain(other) for _, other in keys].count(plain(key)) > 1:
            raise ValueError(f"--vary sets {key} of {experiment.name} more than once; give its values in one list")
        before = (o for o in fixed if o.startswith("--") and plain(o[2:].partition("=")[0]) == plain(key))
        if set_before := next(before, None):
            raise ValueError(f"--vary and {set_before} after `--` both set {key} of {experiment.name}")
        _check_values(key, each.values, experiment)
    for values in itertools.product(*(each.values for each in own)):
        setting = tuple((short[each.key], value) for each, value in zip(own, values, strict=True))
        added = [
            text for each, value in zip(own, values, strict=True) for key in each.keys for text in (f"--{key}", value)
        ]
        tail = ",".join(f"{key}={in_a_file_name(value)}" for key, value in setting)
        name = f"{experiment.name}/{tail}" if tail else experiment.name
        yield replace(experiment, name=name, overrides=(*experiment.overrides, *added), setting=setting)


def _check_values(key: str, values: Sequence[str], experiment: Experiment) -> None:
    """Check that the types of the values match the type of the value in the config.

    Keys that the config does not set are checked by the preflight.
    """
    now = settings_of(experiment.config).get(plain(key))
    for value in values:
        kind = _kind(yaml.safe_load(value))
        if now is not None and kind != _kind(now):
            raise ValueError(f"--vary {key}: {value} is {kind}, but {experiment.config} has {_kind(now)}, {now!r}")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        try:
            float(value)  # 1e-3 is a string in YAML and a number on the command line
        except ValueError:
            return "a text"
        return "a number"
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else "null"


def to_number(value: str) -> float:
    """Convert a value to a number, or to NaN if it is not a number."""
    try:
        return float(value)
    except ValueError:
        return math.nan
