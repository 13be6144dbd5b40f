"""Read the file of a leaderboard, `configs/leaderboards/<field>.yaml`, and plan its trials and runs."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.arguments import are_seeds
from experiments.claims.arms import Arm, in_a_file_name, stated_arm
from experiments.claims.statements import command_of
from experiments.compare import collect
from experiments.config_files import PROJECT, locate_config, mapping_of, relative
from experiments.results import choose_from
from experiments.run_request import Run, load_experiments
from experiments.tuning.search import Metric, parse_metric
from experiments.tuning.study import tested_values

FOLDER = Path("configs/leaderboards")
SIZES = ("cpu", "gpu")
OF_FILE = {"title": str, "metrics": dict}
OF_SIZE = {"protocol": str, "seeds": list, "columns": dict, "rows": list}
OF_ROW = {"name": str, "config": str}


@dataclass(frozen=True)
class Entry:
    """A method in a setting: its configuration, and the arguments of each trial of its search, if it has one."""

    row: str
    column: str
    arm: Arm
    trials: tuple[tuple[str, ...], ...] = ()
    baseline: bool = False

    @property
    def title(self) -> str:
        return f"{self.row}, {self.column}"


@dataclass(frozen=True)
class Board:
    """The leaderboard of a field at one size.

    The keys are those that `train.py leaderboard --help` describes; `goal` and `validation` are None without a search.
    """

    field: str
    size: str
    title: str
    protocol: str
    metrics: Mapping[str, str]
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]
    goal: Metric | None = None
    validation: Mapping[str, Any] | None = None


def load_boards(path: Path) -> dict[str, Board]:
    """Read the leaderboard of each size in a file."""
    content = mapping_of(path)
    _check_keys(content, OF_FILE, dict.fromkeys(SIZES, dict), str(path))
    if not set(map(str, content["metrics"].values())) <= {"higher", "lower"}:
        raise ValueError(f"{path}: metrics must map each metric to higher or lower, got {content['metrics']!r}")
    return {size: _board(content, size, path) for size in SIZES if size in content}


def load_board(field: str, size: str) -> Board:
    """Read the leaderboard of a field, which is the name of a file in configs/leaderboards, or a path."""
    path = Path(field) if field.endswith(".yaml") else locate_config(FOLDER / f"{field}.yaml")
    if not path.is_file():
        known = sorted(each.stem for each in (PROJECT / FOLDER).glob("*.yaml"))
        raise FileNotFoundError(f"there is no leaderboard {field}{choose_from(field, known, 'fields')}")
    boards = load_boards(relative(path.resolve()))
    if size not in boards:
        raise ValueError(f"{path} has no size {size}; it has {', '.join(boards)}")
    return boards[size]


def _check_keys(content: Any, required: Mapping[str, type], optional: Mapping[str, type], where: str) -> None:
    """Check the keys of a mapping, and the types of their values."""
    allowed = {**required, **optional}
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must be a mapping with the keys {', '.join(allowed)}, got {content!r}")
    for key in (*content, *required):
        if key not in allowed:
            raise ValueError(f"{where}: unknown key {key}{choose_from(str(key), allowed, 'keys')}")
        if key in required and content.get(key) in (None, "", [], {}):
            raise ValueError(f"{where}: {key} is missing; the keys are {', '.join(allowed)}")
        if not isinstance(content[key], allowed[key]):
            kind = {dict: "mapping", list: "list", str: "text", int: "number", bool: "boolean"}[allowed[key]]
            raise ValueError(f"{where}: {key} must be a {kind}, got {content[key]!r}")


def _board(content: Mapping[str, Any], size: str, path: Path) -> Board:
    own, where = content[size], f"{path}, {size}"
    _check_keys(own, OF_SIZE, {"overrides": dict, "validation": dict}, where)
    if not are_seeds(own["seeds"]):
        raise ValueError(f"{where}: seeds must be a list of different whole numbers, got {own['seeds']!r}")
    entries = tuple(entry for row in own["rows"] for entry in _entries(row, own, path.parent, where))
    counts = {len(entry.trials): entry.row for entry in entries if entry.trials}
    if len(counts) > 1:
        said = ", ".join(f"{row} has {count}" for count, row in sorted(counts.items()))
        raise ValueError(f"{where}: every search must have the same number of trials, but {said}")
    if bool(counts) != ("validation" in own):
        raise ValueError(f"{where}: search and validation need each other; give both or none")
    named = (path.stem, size, content["title"], own["protocol"], content["metrics"], tuple(own["seeds"]), entries)
    if not counts:
        return Board(*named)
    goal = _goal(own["validation"], own, f"{where}: validation")
    untrained = next((entry.row for entry in entries if entry.trials and entry.arm.command == "test"), None)
    if untrained and not goal.name.startswith("test/"):
        remedy = "give validation a test metric, and overrides that replace the test data by validation data"
        raise ValueError(f"{where}: {untrained} is not trained, so it has no {goal.name}; {remedy}")
    return Board(*named, goal, own["validation"])


def _entries(row: Any, size: Mapping[str, Any], folder: Path, where: str) -> Iterator[Entry]:
    where = f"{where}, row {row.get('name') if isinstance(row, Mapping) else row}"
    own = {key: value for key, value in row.items() if "." not in str(key)} if isinstance(row, Mapping) else row
    _check_keys(own, OF_ROW, {"command": str, "baseline": bool, "columns": dict, "search": dict}, where)
    search, special = own.get("search", {}), own.get("columns", {})
    if wrong := next((each for each in search.values() if not isinstance(each, list) or not each), None):
        raise ValueError(f"{where}: search must be a mapping of keys to lists of values, got {wrong!r}")
    if unknown := next((each for each in special if each not in size["columns"]), None):
        raise ValueError(f"{where}: there is no column {unknown}{choose_from(unknown, size['columns'], 'columns')}")
    combined = itertools.product(*search.values()) if search else ()
    trials = tuple(tuple(_arguments(dict(zip(search, values, strict=True)))) for values in combined)
    kept = {key: value for key, value in row.items() if "." in str(key) or key in ("config", "command")}
    for column, changes in size["columns"].items():
        content = {**size.get("overrides", {}), **kept, **(changes or {}), **special.get(column, {})}
        arm = stated_arm({**content, "name": f"{own['name']}, {column}"}, folder, where)
        yield Entry(own["name"], column, arm, trials, own.get("baseline", False))


def _arguments(settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        yield from (f"--{key}", value if isinstance(value, str) else json.dumps(value))


def _goal(validation: Mapping[str, Any], size: Mapping[str, Any], where: str) -> Metric:
    """Read the metric by which a search chooses. It may be a test metric only if the trials have other data."""
    _check_keys(validation, {"metric": str, "seed": int}, {"column": str, "overrides": dict, "columns": dict}, where)
    name, seed, column = validation["metric"], validation["seed"], validation.get("column")
    if seed in size["seeds"]:
        raise ValueError(f"{where}: seed must be a number that is not in seeds, got {seed}")
    special = validation.get("columns", {})
    if unknown := next((each for each in (column, *special) if each not in (None, *size["columns"])), None):
        raise ValueError(f"{where}: there is no column {unknown}{choose_from(unknown, size['columns'], 'columns')}")
    common, tried = validation.get("overrides", {}), [column] if column else size["columns"]
    changed = [(*common, *special.get(each, {})) for each in tried]
    replaced = all(any(str(key).startswith("data.") for key in keys) for keys in changed)
    try:
        return replace(parse_metric(name.replace("test/", "val/") if replaced else name), name=name.partition(":")[0])
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('--metric ')}") from None


class Plan:
    """The trials and the runs of a leaderboard. All state is in the directories of the runs.

    Args:
        board: the leaderboard.
        output: output directory.
    """

    def __init__(self, board: Board, output: Path) -> None:
        self.board, self.output = board, output
        loaded = load_experiments([entry.arm for entry in board.entries])
        self.experiments = {
            entry: replace(each, name="/".join(map(in_a_file_name, (entry.row, entry.column))), label=entry.title)
            for entry, each in zip(board.entries, loaded, strict=True)
        }

    def trials(self, entry: Entry) -> list[Run]:
        """Return the trials of an entry. It has none if nothing is searched, or if another column decides."""
        goal, how = self.board.goal, self.board.validation or {}
        if goal is None or how.get("column") not in (None, entry.column):
            return []
        mark = f"{{class_path: callbacks.trials.PruneTrial, init_args: {{metric: {goal.name}, mode: {goal.mode}}}}}"
        tests, own, runs = goal.name.startswith("test/"), self.experiments[entry], []
        changes = {**how.get("overrides", {}), **how.get("columns", {}).get(entry.column, {})}
        more = (*_arguments(changes), *(() if tests else ("--trainer.callbacks+", mark)))
        for number, setting in enumerate(entry.trials):
            each = replace(own, name=f"{own.name}/trial_{number}", label=f"{entry.title}, trial {number}",
                           overrides=(*own.overrides, *setting, *more))  # fmt: skip
            runs.append(Run(each, how["seed"], self.output / each.name, entry.arm.command if tests else "train"))
        return runs

    def chosen(self, entry: Entry) -> tuple[str, ...] | None:
        """Return the arguments of the best trial, or None if no trial has finished with a finite value."""
        if self.board.goal is None or not entry.trials:
            return ()
        column = (self.board.validation or {}).get("column", entry.column)
        [decides] = [each for each in self.board.entries if (each.row, each.column) == (entry.row, column)]
        values = {number: self._value(run) for number, run in enumerate(self.trials(decides)) if run.finished}
        known = {number: self.board.goal.sign * value for number, value in values.items() if math.isfinite(value)}
        return entry.trials[max(known, key=known.__getitem__)] if known else None

    def _value(self, run: Run) -> float:
        assert self.board.goal is not None
        name = self.board.goal.name
        if not name.startswith("test/"):
            return tested_values(run.directory, [name])[0]
        return next((each.value for each in collect([run]) if each.metric == name), math.nan)

    def run(self, entry: Entry, seed: int, setting: Sequence[str]) -> Run:
        own = self.experiments[entry]
        each = replace(own, overrides=(*own.overrides, *setting))
        return Run(each, seed, self.output / own.name / f"seed_{seed}", entry.arm.command)

    def runs(self) -> list[Run]:
        """Return the runs of all entries whose settings are known, ordered by seed."""
        known = {entry: setting for entry in self.board.entries if (setting := self.chosen(entry)) is not None}
        return [self.run(entry, seed, setting) for seed in self.board.seeds for entry, setting in known.items()]

    def commands(self, program: str, recorded: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
        """Yield the title and the command of each entry with its first seed, or of its trials if nothing is chosen yet.

        Args:
            program: program of the commands.
            recorded: arguments that an earlier search has chosen, by its title.
        """
        for entry in self.board.entries:
            setting = recorded.get(entry.title) if (found := self.chosen(entry)) is None else found
            runs = self.trials(entry) if setting is None else [self.run(entry, self.board.seeds[0], setting)]
            for run in runs:
                arm = Arm(entry.arm.config, run.experiment.overrides, command=run.command)
                yield run.experiment.label, command_of(arm, run.seed, program)
