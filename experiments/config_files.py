"""Configuration files as text: what they hold, and the file that one may be based on.

A file that begins with a line `base: demo.yaml` holds what differs from that file. The base is one earlier `--config`
on the same command line and nothing more.
"""

import os
import re
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
    "--model.class_path lightning_modules.noisy_labels.lsa.PLSLSA --data.passes_per_epoch 1",
    "configs/lsa/webvision_pls.yaml": "configs/lsa/webvision.yaml with --model.detectors [loss]",
    "configs/score_sde/cifar10_subvp.yaml": "configs/score_sde/cifar10_vp.yaml with "
    "--model.process.class_path lightning_modules.sde.processes.SubVP",
    "configs/score_sde/cifar10_ve_discrete.yaml": "configs/score_sde/cifar10_ve.yaml with --model.num_levels 1000 "
    "--model.network.embedding positional --model.network.divide_by_level false",
    "configs/score_sde/cifar10_vp_discrete.yaml": "configs/score_sde/cifar10_vp.yaml with --model.num_levels 1000 "
    "--model.likelihood_repeats 0 --model.sampler.predictor ancestral",
}
"""Configurations and folders of version 0.1 by what they are called now."""
RENAMED_KEYS = {"checkpoint.tested": "checkpoint.test_checkpoint"}
"""Keys of version 0.1, and their names since 0.2."""
BASE_LINE = re.compile(r"^base:[^\n]*$", re.MULTILINE)


def located(path: Path) -> Path:
    """Find a configuration file: where the path says or, of `configs/...`, among those that come with the package.

    Raises:
        FileNotFoundError: says what a file of version 0.1 is called now.
    """
    ours = PROJECT / path
    # os.path, as a text that is too long for a path is none
    if path.parts[:1] != ("configs",) or os.path.exists(path):
        return path
    if os.path.isfile(ours):
        return ours
    for each in (path, path.parent):
        if now := MOVED.get(each.as_posix()):
            raise FileNotFoundError(f"{path} is {now}{'' if each == path else f'/{path.name}'} since version 0.2")
    return path


def text_of(path: Path) -> str:
    """Read a text file.

    Raises:
        ValueError: names a file that is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error.reason} at byte {error.start}") from None


def parsed(text: str, path: Path) -> Any:
    """Parse the text of a YAML file.

    Raises:
        ValueError: names the file and the line of what is not YAML, or a file that stands for endlessly many values.
    """
    try:
        content = yaml.load(text, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    waiting, count = [content], 0
    while waiting:  # references to references grow without bound where they are written out
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        if (count := count + 1) > MOST_VALUES:
            raise ValueError(f"{path} stands for more than {MOST_VALUES} values: write it without references")
    return content


def mapping_of(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ValueError: names a file that is not a YAML mapping.
    """
    content = parsed(text_of(path), path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is no configuration: it must hold the keys model, data, trainer and so on "
            f"(a claim file is for train.py claim)"
        )
    return content


def base_of(path: Path) -> Path | None:
    """Find the file that a configuration is based on, None for one that stands by itself.

    Raises:
        FileNotFoundError: names a base that does not exist.
        ValueError: names a base that is not allowed, or a file that is no configuration.
    """
    content = mapping_of(path)
    if "base" not in content:
        return None
    value, allowed = content["base"], "a file of the same folder (demo.yaml) or of one beside it (../elr/demo.yaml)"
    if not isinstance(value, str) or not re.fullmatch(r"(\.\./[\w-]+/)?[\w.-]+\.ya?ml", value):
        raise ValueError(f"{path}: base is {value!r}, and must be {allowed}")
    if next(iter(content)) != "base" or not BASE_LINE.search(text_of(path)):
        raise ValueError(f"{path}: base: {value} must be the first key, on a line of its own")
    base = path.parent / value
    if not base.is_file():
        raise FileNotFoundError(f"{path}: base is {value}, which does not exist; it must be {allowed}")
    if "base" in mapping_of(base):
        raise ValueError(f"{path}: base is {value}, which has a base itself; it must be {allowed} that has none")
    return base


def with_base(path: Path) -> list[Path]:
    """List a configuration file behind its base, if it has one."""
    base = base_of(path)
    return [base, path] if base else [path]


def without_base_line(text: str) -> str:
    """Blank the line that names a base, so that the lines of error messages stay right.

    A file that changes nothing in its base becomes an empty mapping.
    """
    own = BASE_LINE.sub("", text, count=1)
    return own if re.search(r"^[^#\s]", own, re.MULTILINE) else "{}\n"


def dotted(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names, `data.label_noise.noise_rate` for example: without `init_args`."""
    if not isinstance(value, dict) or not value:
        return {plain(prefix): value}
    return {name: leaf for key, inner in value.items() for name, leaf in dotted(inner, f"{prefix}.{key}").items()}


def plain(key: str) -> str:
    """Shorten a dotted name by its `init_args`."""
    return ".".join(part for part in key.split(".") if part not in ("", "init_args"))


def reject_old_keys(settings: dict[str, Any], path: object) -> None:
    """Reject a key of version 0.1 in a configuration.

    Raises:
        ValueError: names the file, the key and the key since version 0.2.
    """
    for old in RENAMED_KEYS.keys() & dotted(settings).keys():
        raise ValueError(f"{path}: since version 0.2, {old} is {RENAMED_KEYS[old]}")


def with_new_keys(settings: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of a run of version 0.1, whose `config.yaml` nests them, to those of version 0.2."""
    new = dict(settings)
    for section, values in settings.items():
        if isinstance(values, dict):
            names = {key: RENAMED_KEYS.get(f"{section}.{key}", f"{section}.{key}") for key in values}
            new[section] = {names[key].removeprefix(f"{section}."): value for key, value in values.items()}
    return new


def settings_of(path: Path) -> dict[str, Any]:
    """Read a configuration's settings by dotted names, those of its base with what the file itself changes."""
    leaves = [leaf for file in with_base(path) for leaf in dotted(mapping_of(file)).items()]
    return {name: value for name, value in leaves if name != "base"}
