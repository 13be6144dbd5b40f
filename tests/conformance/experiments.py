"""Read the experiments in configs/ with one parser, because building a parser takes longer than using it."""

import functools
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.calls.parse import parse
from experiments.claims.arms import Arm
from experiments.claims.statements import load_claims
from experiments.leaderboards.fields import load_boards
from tests.command import ROOT
from tests.parsed_once import parsing_once

CONFIGS = ROOT / "configs"
NO_CONFIGURATIONS = {"claim.yaml"}  # files of the command claim
NO_EXPERIMENTS = {"callbacks", "trainer", "own_data", "leaderboards"}  # layers, templates, and files of other commands
EXPERIMENTS = [
    path
    for path in sorted(CONFIGS.glob("*/*.yaml"))
    if path.name not in NO_CONFIGURATIONS and path.parent.name not in NO_EXPERIMENTS
]
CLAIMS = [claim for file in sorted(CONFIGS.glob("*/claim.yaml")) for claim in load_claims(file)]
CELLS = [
    replace(entry.arm, overrides=(*entry.arm.overrides, *(entry.trials or ((),))[-1]))
    for file in sorted((CONFIGS / "leaderboards").glob("*.yaml"))
    for board in load_boards(file).values()
    for entry in board.entries
]
"""Configurations of leaderboards, with the settings of the last trial."""
ARMS = list(dict.fromkeys([*(arm for claim in CLAIMS for arm, _ in claim.sides if arm.overrides), *CELLS]))
"""Configurations with overrides that claims and leaderboards run."""
HEADER_ARMS = [
    Arm(path, tuple(shlex.split(line)))
    for path in EXPERIMENTS
    for line in re.findall(r"^#   (--(?!vary |seeds ).+)", path.read_text(), re.MULTILINE)
]
"""Configurations with the overrides that lines of their headers suggest."""
TRAINERS = sorted((CONFIGS / "trainer").glob("*.yaml"))
MOST_BY_DEFAULT = 3


def name(experiment: Path | Arm) -> str:
    """Return the folder and the name of a configuration, with the names of its overrides."""
    path, tail = (experiment.config, experiment.tail) if isinstance(experiment, Arm) else (experiment, "")
    return ",".join(filter(None, (path.relative_to(CONFIGS).with_suffix("").as_posix(), tail)))


class Experiments:
    """Parses the arguments of `fit`."""

    def __init__(self) -> None:
        self.parser = parse(["fit", "--config", str(EXPERIMENTS[0])]).grammar.parser
        self.parsed = functools.cache(self._parsed)

    def _parsed(self, *args: str | Path) -> Any:
        with parsing_once():
            return self.parser.parse_args(["fit", *map(str, args)])

    def config(self, *args: str | Path) -> Any:
        """Resolve the configuration."""
        return self.parsed(*args).clone().fit

    def built(self, *args: str | Path) -> Any:
        """Build the module, data and callbacks, with parameters on the meta device."""
        with torch.device("meta"):
            return self.parser.instantiate(self.parsed(*args)).fit


@functools.cache
def experiments() -> Experiments:
    """Share parsed experiments among tests."""
    return Experiments()


def at_paper_scale(*, dear: set[str] | frozenset[str] = frozenset()) -> list[Any]:
    """List the configs that are not demos, and the arms of claims and headers with such configs.

    In the default suite, tests run for the first config of each module in a folder, but for at most three configs per
    folder. The tests of all other configs run nightly.

    Args:
        dear: names of configs that take more than two core-seconds and run nightly.
    """
    chosen: dict[str, set[str]] = {}
    parameters = []
    for arm in (*map(Arm, EXPERIMENTS), *ARMS, *HEADER_ARMS):
        if arm.config.stem.startswith("demo"):
            continue
        kinds = chosen.setdefault(arm.config.parent.name, set())
        kind = arm.settings["model.class_path"]
        default = name(arm) not in dear and kind not in kinds and len(kinds) < MOST_BY_DEFAULT
        kinds |= {kind} if default else set()
        parameters.append(pytest.param(arm, id=name(arm), marks=() if default else pytest.mark.nightly))
    return parameters
