"""Read configuration files, which may refer to a `base` file.

A file that begins with the line `base: demo.yaml` contains only its differences from `demo.yaml`. The base has the same
effect as a `--config` that precedes the file on the command line.
"""

import difflib
import os
import re
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
MOST_VALUES = 1_000_000
MOVED = {
    "configs/dds": "configs/denoised_smoothing",
    "configs/diffusionguard": "configs/diffusion_guard",
    "configs/diffusion_finetuning": "configs/finetuning",
    "configs/lsa/cifar10_asymmetric.yaml": "configs/lsa/cifar10.yaml with --data.label_noise.class_path "
    "datamodules.corruptions.label_noise.AsymmetricCIFAR10",
    "configs/lsa/cifar100_asymmetric.yaml": "configs/lsa/cifar100.yaml with --data.label_noise.class_path "
    "datamodules.corruptions.label_noise.BlocksCIFAR100",
    "configs/lsa/cifar100_web_noise.yaml": "configs/lsa/cifar100_web_noise_plus.yaml with "
    "--model.class_path lightning_modules.noisy_labels.lsa.PLSLSA --data.loading.passes_per_epoch 1",
    "configs/lsa/webvision_pls.yaml": "configs/lsa/webvision.yaml with --model.detectors [loss]",
    "configs/score_sde/cifar10_subvp.yaml": "configs/score_sde/cifar10_vp.yaml with "
    "--model.process.class_path lightning_modules.sde.processes.SubVP",
    "configs/score_sde/cifar10_ve_discrete.yaml": "configs/score_sde/cifar10_ve.yaml with --model.num_levels 1000 "
    "--model.network.embedding positional --model.network.divide_by_level false",
    "configs/score_sde/cifar10_vp_discrete.yaml": "configs/score_sde/cifar10_vp.yaml with --model.num_levels 1000 "
    "--model.likelihood_repeats 0 --model.sampler.predictor ancestral",
}
"""Map from paths of configurations and folders in version 0.1 to their paths in version 0.2."""
RENAMED_KEYS = {"checkpoint.tested": "checkpoint.test_checkpoint"}
"""Map from keys of version 0.1 to keys of version 0.2."""
BASE_LINE = re.compile(r"^base:[^\n]*$", re.MULTILINE)
# libyaml is several times as fast as PyYAML's loader and dumper in Python
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Dumper of plain values and enumerations. Default values may be enumerations."""


Dumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))


def load_yaml(text: str) -> Any:
    """Parse a YAML text into plain values."""
    return yaml.load(text, Loader=LOADER)


def dump_yaml(values: Any) -> str:
    """Write plain values as a YAML text, with one key per line in the given order."""
    return yaml.dump(values, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def relative(path: Path) -> Path:
    """Return a path relative to the working directory if it is inside this directory, and otherwise the path itself."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def located(path: Path) -> Path:
    """Find a configuration file at its path or, for `configs/...`, among the configurations in the package.

    Raises:
        FileNotFoundError: if the file does not exist. If the file was renamed after version 0.1, the message gives its
            new name.
    """
    ours = PROJECT / path
    # os.path returns False if a string is too long for a path
    if path.parts[:1] != ("configs",) or os.path.exists(path):
        return path
    if os.path.isfile(ours):
        return ours
    for each in (path, path.parent):
        if now := MOVED.get(each.as_posix()):
            raise FileNotFoundError(
                f"{path} has been called {now}{'' if each == path else f'/{path.name}'} since version 0.2"
            )
    return path


def similar_file(path: Path) -> str:
    """Suggest a configuration with a similar name, in the same folder or under `configs/`; empty if there is none."""
    near = [path.parent, PROJECT / path.parent]
    names = {str(path.parent / file.name) for folder in near if folder.is_dir() for file in folder.glob("*.y*ml")}
    names |= {str(file.relative_to(PROJECT)) for file in PROJECT.glob(f"configs/*/{path.stem}.yaml")}
    close = difflib.get_close_matches(str(path), names, 1, 0.75)
    return f"; did you mean {close[0]}?" if close else ""


def text_of(path: Path) -> str:
    """Read a text file.

    Raises:
        ValueError: if the file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error.reason} at byte {error.start}") from None


def parsed(text: str, path: Path) -> Any:
    """Parse the text of a YAML file.

    Raises:
        ValueError: if the text is not valid YAML, or its aliases expand to too many values. The message names the file.
    """
    try:
        content = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    waiting, count = [content], 0
    while waiting:  # nested aliases expand exponentially
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        if (count := count + 1) > MOST_VALUES:
            raise ValueError(f"{path} expands to more than {MOST_VALUES} values: write it without aliases")
    return content


def mapping_of(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ValueError: if the file is not a YAML mapping.
    """
    content = parsed(text_of(path), path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is not a configuration: it must be a mapping with keys such as model, data and trainer "
            f"(claim.yaml is for train.py claim)"
        )
    return content


def base_of(path: Path) -> Path | None:
    """Return the path of the base of a configuration, or None if it has no base.

    Raises:
        FileNotFoundError: if the base does not exist.
        ValueError: if the base is not allowed, or the file is not a configuration.
    """
    content = mapping_of(path)
    if "base" not in content:
        return None
    value, allowed = content["base"], "a file of the same folder (demo.yaml) or of a sibling folder (../elr/demo.yaml)"
    if not isinstance(value, str) or not re.fullmatch(r"(\.\./[\w-]+/)?[\w.-]+\.ya?ml", value):
        raise ValueError(f"{path}: base is {value!r}, but must be {allowed}")
    if next(iter(content)) != "base" or not BASE_LINE.search(text_of(path)):
        raise ValueError(f"{path}: base: {value} must be the first key, on a line of its own")
    base = path.parent / value
    if not base.is_file():
        raise FileNotFoundError(f"{path}: base is {value}, which does not exist; it must be {allowed}")
    if "base" in mapping_of(base):
        raise ValueError(f"{path}: base is {value}, which has a base itself; it must be {allowed} without a base")
    return base


def with_base(path: Path) -> list[Path]:
    """Return the path of the base, if there is one, and the path of the configuration."""
    base = base_of(path)
    return [base, path] if base else [path]


def without_base_line(text: str) -> str:
    """Replace the line `base: ...` with an empty line, so that line numbers in error messages stay correct.

    If the file contains only this line, return an empty mapping.
    """
    own = BASE_LINE.sub("", text, count=1)
    return own if re.search(r"^[^#\s]", own, re.MULTILINE) else "{}\n"


def dotted(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names without `init_args`, for example `data.label_noise.noise_rate`."""
    if not isinstance(value, dict) or not value:
        return {plain(prefix): value}
    return {name: leaf for key, inner in value.items() for name, leaf in dotted(inner, f"{prefix}.{key}").items()}


def plain(key: str) -> str:
    """Remove `init_args` from a dotted name."""
    return ".".join(part for part in key.split(".") if part not in ("", "init_args"))


def reject_old_keys(settings: dict[str, Any], path: object) -> None:
    """Raise an error if a configuration contains a key of version 0.1.

    Raises:
        ValueError: if the configuration contains an old key. The message names the file, the key and its new name.
    """
    for old in RENAMED_KEYS.keys() & dotted(settings).keys():
        raise ValueError(f"{path}: since version 0.2, {old} is called {RENAMED_KEYS[old]}")


def with_new_keys(settings: dict[str, Any]) -> dict[str, Any]:
    """Rename nested keys in a `config.yaml` of version 0.1 to the keys of version 0.2."""
    new = dict(settings)
    for section, values in settings.items():
        if isinstance(values, dict):
            names = {key: RENAMED_KEYS.get(f"{section}.{key}", f"{section}.{key}") for key in values}
            new[section] = {names[key].removeprefix(f"{section}."): value for key, value in values.items()}
    return new


def settings_of(path: Path) -> dict[str, Any]:
    """Read the settings of a configuration and its base into a dict by dotted names."""
    leaves = [leaf for file in with_base(path) for leaf in dotted(mapping_of(file)).items()]
    return {name: value for name, value in leaves if name != "base"}
