"""Requests of runs. A request (config, overrides, seed) identifies a run and is saved in its `request.json`.

Each run has a separate directory, such as `<output>/<config name>/seed_<seed>`. The last file that a run writes is
`test_metrics.csv` (without a test, `trained.csv`), so a run has finished if this file exists. A directory is never used
for a run with a different request.
"""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.claims.arms import Arm, layers_of
from experiments.config_files import PROJECT, flatten_settings, locate_config, parse_yaml, text_of, with_base

RESERVED = {
    "seed_everything": "--seeds",
    "run_directory": "--output",
    "resume": "--output",
    "test_after_fit": "compare",
    "ckpt_path": "compare",
}


@dataclass(frozen=True)
class Experiment:
    """A configuration to run, and its names in directories and tables.

    Args:
        name: name in directories. It is unique among the experiments in one output directory.
        config: path of the configuration file.
        texts: texts of the config and, if it has one, of its base, by path. They are the texts at the time of planning.
        label: name in tables and figures: the name of the method. If several configurations have the same method, the
            name of the configuration is added.
        overrides: command-line arguments of `fit` after the config.
        setting: pairs (short name, value) of the keys that a comparison varies.
    """

    name: str
    config: Path
    texts: tuple[tuple[Path, str], ...]
    label: str
    overrides: tuple[str, ...] = ()
    setting: tuple[tuple[str, str], ...] = ()

    @property
    def config_name(self) -> str:
        """Name of the config, without the varied keys."""
        return self.name.rpartition("/")[0] if self.setting else self.name

    @property
    def method(self) -> str:
        """Name of the method's class."""
        return self.label.removesuffix(self.config_name).strip()

    @property
    def title(self) -> str:
        """Label of the config, with the values of the varied keys."""
        return " ".join([self.label, ", ".join(f"{key} {value}" for key, value in self.setting)]).strip()


@dataclass(frozen=True)
class Run:
    """An experiment with one seed and a separate directory.

    Args:
        experiment: experiment to run.
        seed: seed of the run.
        directory: directory of the run.
        command: `fit` to train and test, `test` to test without training, or `train` to train without testing.
    """

    experiment: Experiment
    seed: int
    directory: Path
    command: str = "fit"

    @property
    def title(self) -> str:
        return f"{self.experiment.title}, seed {self.seed}"

    @property
    def last_file(self) -> Path:
        """The last file that the run writes."""
        return self.directory / ("trained.csv" if self.command == "train" else "test_metrics.csv")

    @property
    def finished(self) -> bool:
        return self.last_file.is_file()


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Shorten paths to distinct names with the same number of parts.

    For example, a single path becomes `demo`, and two paths become `elr/demo` and `adele/demo`.
    """
    resolved = [path.resolve() for path in paths]
    repeated = next((path for i, path in enumerate(resolved) if path in resolved[:i]), None)
    if repeated is not None:
        raise ValueError(f"{repeated} is given twice")
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return ["/".join(path.parts[-depth:]).lstrip("/") for path in resolved]


def load_experiments(configs: Sequence[Path | Arm], overrides: Sequence[str] = ()) -> list[Experiment]:
    """Read the configs, and give each a name and a label.

    Args:
        configs: configurations, with or without their own overrides.
        overrides: overrides of all configurations.
    """
    arms = [each if isinstance(each, Arm) else Arm(each) for each in configs]
    for override in (text for given in (*(each.overrides for each in arms), overrides) for text in given):
        key = override.removeprefix("--").partition("=")[0]
        if override.startswith("--") and key in RESERVED:
            raise ValueError(f"--{key} cannot be overridden: {RESERVED[key]} sets it for each run")
    for name, files in layers_of(overrides).items():
        for text in files.values():
            content = parse_yaml(text, Path(name))
            for each in [each for each in RESERVED if isinstance(content, dict) and each in content]:
                raise ValueError(f"--config {name} cannot set {each}: {RESERVED[each]} sets it for each run")
    arms = [replace(each, config=locate_config(each.config)) for each in arms]
    paths: dict[Path, Path] = {}
    for own in arms:
        if not own.config.is_file():
            reason = "is not a file" if own.config.exists() else "does not exist"
            raise FileNotFoundError(f"config {own.config} {reason}")
        paths.setdefault(own.config.resolve(), own.config.with_suffix(""))
    short = dict(zip(paths, unique_names(list(paths.values())), strict=True))
    names = [",".join(filter(None, (short[each.config.resolve()], each.tail))) for each in arms]
    if alike := next((i for i, name in enumerate(names) if name in names[:i]), None):
        same = arms[alike].config.resolve(), arms[alike].overrides
        twice = same in [(each.config.resolve(), each.overrides) for each in arms[:alike]]
        reason = "is given twice" if twice else f"has the name {names[alike]} of another arm: add `name` to one of them"
        raise ValueError(f"{arms[alike]} {reason}")
    texts = [tuple((file, text_of(file)) for file in with_base(each.config)) for each in arms]
    labels = _labels(arms, [name.replace(",", " ") for name in names])
    return [
        Experiment(name, each.config, text, label, (*each.overrides, *overrides))
        for name, each, text, label in zip(names, arms, texts, labels, strict=True)
    ]


def _labels(arms: Sequence[Arm], names: Sequence[str]) -> list[str]:
    """Return a label for each arm: the name of its method, such as `ELR`.

    If several arms have the same method, the name of the configuration is added, as in `ELR demo`.
    """
    methods = [str(each.settings.get("model.class_path", "")).rpartition(".")[2] for each in arms]
    return [
        method if method and methods.count(method) == 1 else f"{method} {name}".strip()
        for method, name in zip(methods, names, strict=True)
    ]


def setting_of(experiment: Experiment, key: str) -> Any:
    """Return the value that a configuration, its base or its overrides give to a key, or None if the key is not set."""
    return Arm(experiment.config, experiment.overrides).settings.get(key)


def request(run: Run) -> dict[str, Any]:
    """Build the request of a run. Runs with equal requests are the same run and may use the same directory."""
    *base, (_, own) = run.experiment.texts
    layers = {str(path): text for path, text in base}
    for files in layers_of(run.experiment.overrides).values():
        layers |= files
    return {
        "config": own,
        "layers": layers,
        "overrides": list(run.experiment.overrides),
        "seed": run.seed,
        **({} if run.command == "fit" else {"command": run.command}),
    }


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a request to dotted keys and values. They do not depend on the YAML file's comments and layout."""
    settings = {"seed": content["seed"], "overrides": " ".join(content["overrides"])}
    settings["command"] = content.get("command", "fit")
    for name, text in {"": content["config"], **content["layers"]}.items():
        leaves = flatten_settings(parse_yaml(text, Path("request.json")))
        settings |= {f"{name}: {key}" if name else key: value for key, value in leaves.items()}
    key = ""
    for override in content["overrides"]:
        if override.startswith("--"):
            key, _, value = override.partition("=")
            settings[key] = value
        else:
            settings[key] = f"{settings.get(key, '')} {override}".strip()
    return settings


def check(run: Run) -> None:
    """Check that the directory of a run is empty or contains this run."""
    for path in (run.directory, *run.directory.parents):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path} is a file, so the directory {run.directory} cannot be created")
    if not run.directory.exists() or all(path.name.startswith(".") for path in run.directory.iterdir()):
        return
    if not (run.directory / "config.yaml").exists() and (run.directory / "request.json").is_file():
        return  # the run failed before it started, so no results are lost
    remedy = "choose another --output, or remove that directory to run it again"
    try:
        old = _settings(json.loads((run.directory / "request.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{run.directory} is not empty but has no readable request.json: {remedy}") from None
    new = _settings(request(run))
    for key in sorted(old.keys() | new.keys(), key=lambda key: key == "overrides"):
        if old.get(key, "absent") != new.get(key, "absent"):
            values = [json.dumps(side[key], default=str) if key in side else "absent" for side in (old, new)]
            raise ValueError(
                f"{run.directory} contains a run with {key} {values[0]}, but now it is {values[1]}: {remedy}"
            )


def machine() -> dict[str, str]:
    """Return the date, the machine and the versions of Python and torch, without importing torch."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    gpus = []
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            lines = information.read_text(encoding="utf-8").splitlines()
            gpus += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return {
        "date": date.today().isoformat(),
        "machine": ", ".join([f"{platform.system()} {platform.machine()}", f"{model} ({cores()} cores)", *gpus]),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
    }


def cores() -> int:
    """Return the number of CPU cores that are available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def code_fingerprint() -> str:
    """Return a digest of the source files that affect results. It identifies results of other versions of the code."""
    digest = hashlib.sha256()
    patterns = ("lightning_modules/**/*.py", "datamodules/**/*.py", "callbacks/**/*.py", "configs/defaults.yaml")
    for pattern in patterns:
        for file in sorted(PROJECT.glob(pattern)):
            digest.update(file.relative_to(PROJECT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def has_saved(run: Run) -> bool:
    """Return whether a run has a checkpoint to resume from."""
    return any((run.directory / "checkpoints" / f"{name}.ckpt").is_file() for name in ("last", "step", "best"))


def command_arguments(run: Run) -> list[str]:
    """Return the command of a run and its arguments. They resume the run if it has a checkpoint."""
    testing = ["--test_after_fit", "true"] if run.command == "fit" else []
    command = "test" if run.command == "test" else "fit"
    if has_saved(run):
        return [command, "--resume", str(run.directory), *testing]
    arguments = ["--config", str(run.experiment.config), "--seed_everything", str(run.seed)]
    return [command, *arguments, "--run_directory", str(run.directory), *testing, *run.experiment.overrides]


def record(run: Run) -> dict[str, Any]:
    """Read `request.json` of a started run. It contains the run's request, `code` and the keys of `machine`."""
    return json.loads((run.directory / "request.json").read_text(encoding="utf-8"))
