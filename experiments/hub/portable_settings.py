"""Make the settings of a run valid on any machine: remove local paths and secrets."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from datamodules.files.image_files import class_folders

SECRET = re.compile(r"(\w+_)?(api_key|secret|password|passwd|credentials?)|((access|auth|hf|use_auth)_)?token", re.I)
"""Names of arguments that contain secrets."""
OF_THE_MACHINE: dict[str, Any] = {
    **{"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto"},
    **dict.fromkeys(("logger", "default_root_dir", "profiler", "plugins")),
}
"""Trainer settings that depend on the machine, and the values that replace them."""


def portable(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Replace local paths with file names, and remove secrets and settings that apply only to this machine.

    The class names of image folders are added, so that the model can be built without the images.

    Returns:
        The settings, and a dict from dotted keys (without `init_args`) to the file names that replace paths.
    """
    named: dict[str, str] = {}
    found = _replace(_with_class_names(settings), "", named)
    trainer = found.get("trainer")
    if isinstance(trainer, dict):
        found["trainer"] = trainer | {key: value for key, value in OF_THE_MACHINE.items() if key in trainer}
    return found, named


def is_local(value: str) -> bool:
    """Return whether a string is an absolute path or a path in a home folder, for any operating system."""
    path = value.removeprefix("file:")
    return len(path) > 1 and (path.startswith(("/", "~")) or PureWindowsPath(path).is_absolute())


def without_paths(content: Any) -> Any:
    """Replace each local path in the content of a JSON file with the path's file name."""
    return _replace(content, "", {})


def _replace(value: Any, key: str, named: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            name: None
            if isinstance(inner, str) and SECRET.fullmatch(str(name))
            else _replace(inner, f"{key}.{name}", named)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_replace(inner, f"{key}.{place}", named) for place, inner in enumerate(value)]
    if not isinstance(value, str) or not is_local(value):
        return value
    if key.startswith(".trainer."):
        return None
    name = PureWindowsPath(value).name or "data"  # a PureWindowsPath is split at both kinds of slashes
    named[".".join(part for part in key.split(".") if part not in ("", "init_args"))] = name
    return name


def _with_class_names(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_class_names(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {name: _with_class_names(inner) for name, inner in value.items()}
    arguments = found.get("init_args")
    if str(found.get("class_path")).endswith(".folder_sets.ImageFolder") and isinstance(arguments, dict):
        training = Path(str(arguments.get("data_dir"))).expanduser() / "train"
        if not arguments.get("class_names") and training.is_dir():
            found["init_args"] = arguments | {"class_names": class_folders(training)}
    return found


def private_texts(run: Path) -> Iterator[tuple[str, bytes]]:
    """Yield pairs (description, text), one for each text to keep private. A description does not contain its text."""
    from huggingface_hub import get_token

    for what, path in (("home folder", Path.home()), ("working directory", Path.cwd()), ("run directory", run)):
        for each in {str(path.absolute()), os.path.realpath(path)}:
            if len(Path(each).parts) > 1:
                yield f"the path of your {what}", each.encode()
    secrets = {"your token of the Hugging Face Hub": get_token() or ""}
    secrets |= {f"the value of {name}": value for name, value in os.environ.items() if IN_ENVIRONMENT.search(name)}
    yield from ((what, value.encode()) for what, value in secrets.items() if len(value) >= 8)


IN_ENVIRONMENT = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|ACCESS_KEY|CREDENTIAL", re.I)
"""Pattern of the names of environment variables that contain secrets."""
