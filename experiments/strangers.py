"""Check a run directory, which may be from an untrusted source, before the run is resumed.

The command line and the user's configurations are trusted. The `config.yaml` in a run directory names classes and their
arguments, and is not trusted. `class_paths` checks the types of the classes. This module rejects other dangers: modules
that would be imported before their classes can be checked, arguments that are URLs, output paths of Lightning classes,
and symbolic links to locations outside the directory.
"""

import importlib
import importlib.util
import inspect
import os
import re
import site
import stat
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import OpenerDirector

from jsonargparse import set_parsing_settings

from experiments.config_files import mapping_of
from experiments.lightning_internals import import_verdicts, set_import_verdicts

OURS = ("lightning_modules", "datamodules", "callbacks")
ALLOWED = {  # parts of other packages whose classes neither unpickle, nor evaluate text, nor write files
    "torch": ("nn", "optim", "_C._nn", "distributed.fsdp.wrap"),
    "torchvision": ("models", "ops", "transforms"),
    "timm": ("layers", "optim", "scheduler"),
    "diffusers": ("",),
    "torchmetrics": ("",),
    "lightning": (
        *("pytorch.accelerators", "pytorch.callbacks", "pytorch.cli.ReduceLROnPlateau", "pytorch.loggers"),
        *("pytorch.plugins", "pytorch.profilers", "pytorch.strategies", "fabric.plugins"),
    ),
}
REFUSED = (  # exceptions in ALLOWED, which load arbitrary files or call arbitrary functions
    *("diffusers.modular_pipelines", "diffusers.pipelines", "diffusers.loaders", "diffusers.utils", "diffusers.hooks"),
    *("lightning.pytorch.callbacks.LambdaCallback", "lightning.pytorch.callbacks.lambda_function"),
    *("lightning.pytorch.plugins.io", "lightning.fabric.plugins.io", "torch.nn.parallel"),
)
ADDRESS = re.compile(r"://|^\s*\w+::")
FOLDERS = ("dirpath", "dir_path", "save_dir", "root_dir", "default_root_dir", "log_dir", "dir", "exclude_batches_path")
NAMES = ("filename", "filename_suffix", "name", "version", "sub_dir")
"""Arguments of Lightning's callbacks, loggers and profilers that set output folders or file names."""
MODULES = ("environment",)
"""Arguments that a library splits at a colon, to import the module that stands before it (gymnasium)."""
MOST_DEVICES = 1024


def settings_of_run(directory: Path, leaves_out: Iterable[str], arguments: list[str]) -> dict[str, Any]:
    """Read the `config.yaml` in a run directory.

    Args:
        directory: the run directory.
        leaves_out: keys that apply only to a single call. They are removed from the settings.
        arguments: command-line arguments. The keys that they set are also removed from the settings.
    """
    _refuse_links(directory)
    if (drawing := Path("matplotlibrc")).exists() and _within(drawing, directory):
        raise ValueError(f"{drawing.absolute()} would set how this command draws: remove it from the run directory")
    path = directory / "config.yaml"
    content = {
        key: value for key, value in mapping_of(path).items() if str(key).partition(".")[0] not in {"base", *leaves_out}
    }
    for argument in arguments:
        if argument.startswith("--") and not argument.partition("=")[0].endswith("+"):
            _drop(content, argument[2:].partition("=")[0])
    for key, value in _walk(content):
        if isinstance(value, dict) and value.get("download") is True:
            value["download"] = False  # a call downloads data only if it says so itself
        own, below = key.rpartition("/")[2], re.search(r"/(init_args|dict_kwargs)/", key)
        shown = key.replace("/", ".")
        if key in ("trainer/devices", "trainer/num_nodes") and isinstance(value, int) and value > MOST_DEVICES:
            raise ValueError(f"{path}: {shown} must be at most {MOST_DEVICES}, got {value}")
        if not below and re.search(r"\w\.\w|\+$", own):
            raise ValueError(f"{path}: the key {own} is rejected: the config.yaml of a run must nest its keys")
        if isinstance(value, str) and ADDRESS.search(value):
            raise ValueError(
                f"{path}: {shown} is the address {value[:200]!r}, but the config.yaml of a run must not fetch "
                f"anything: give it on the command line"
            )
        if not below and isinstance(value, str) and os.path.isfile(value):
            raise ValueError(
                f"{path}: {shown} is the file {value}: the config.yaml of a run must contain the settings themselves"
            )
        if isinstance(value, dict) and re.match(r"lightning\.|\w+$", named := str(value.get("class_path", "?"))):
            _refuse_elsewhere(path, shown, named, value, directory)
    return content


@contextmanager
def known_imports(content: Any, said: Collection[str], directory: Path) -> Iterator[None]:
    """Context manager in which configurations can import only certain packages, and libraries download no weights.

    A package is allowed if it is known to be harmless, if it is the user's code, or if the user names it.

    Args:
        content: settings in a run directory.
        said: texts that come from the user: command-line arguments and contents of configurations.
        directory: run directory. Nothing is imported from it.
    """
    modules = {name for text in said for name in re.findall(r"[\w.]+:[\w./-]+", text)}
    for key, value in _walk(content):
        if key.rpartition("/")[2] in MODULES and ":" in str(value) and value not in modules:
            raise ValueError(
                f"{key.replace('/', '.')} is {str(value)[:200]!r}, but the config.yaml of a run may not name a module "
                f"to import: if the run is yours, also give its original configuration by --config FILE"
            )
    before = import_verdicts()
    denied = {entry.partition(".")[0] for entry in before} | sys.stdlib_module_names
    named = {
        top for _, value in _walk(content) if isinstance(value, str) for top in re.findall(r"\b([A-Za-z_]\w*)\.", value)
    }
    told = {path for text in said for path in re.findall(r"\b[A-Za-z_]\w*(?:\.\w+)+", text)}
    allowed = [*OURS, *(".".join(filter(None, (top, part))) for top, parts in ALLOWED.items() for part in parts)]
    allowed += [path for path in told if path.partition(".")[0] in ALLOWED]
    for top in (named | {path.partition(".")[0] for path in told}) - denied - ALLOWED.keys() - {*OURS}:
        places = _places(top)
        if any(_within(each, directory) or _within(directory, each) for each in places):
            continue
        installed = any(_within(each, folder) for each in places for folder in _is_installed())
        installed |= any(part in ("site-packages", "dist-packages") for each in places for part in each.parts)
        if not installed or any(path.startswith(f"{top}.") for path in told):
            allowed.append(top)
    set_parsing_settings(import_path_denylist=["*", *REFUSED], import_path_allowlist=allowed)
    opened = OpenerDirector.open
    if not any(re.search(r"\.download\b|\bdownload: true", text) for text in said):
        OpenerDirector.open = _refuse_download  # type: ignore[assignment]  # torch.hub, torchvision, torchmetrics use it
    try:
        yield
    finally:
        OpenerDirector.open = opened  # type: ignore[method-assign]
        set_import_verdicts(before)


def _refuse_download(_: OpenerDirector, url: Any, *__: Any, **___: Any) -> None:
    address = getattr(url, "full_url", url)
    raise OSError(
        f"the config.yaml of a run may not download {address}: download it with a configuration of your own first; "
        f"torch.hub then finds it in its cache"
    )


def _refuse_links(directory: Path) -> None:
    """Reject symbolic links to locations outside the directory, because writing would follow them.

    Everything that is neither a file nor a folder is also rejected.
    """
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) and not _within(path, directory):
                raise ValueError(
                    f"{path} is a link that leads out of the run directory, to {os.path.realpath(path)}: "
                    f"replace it by its target"
                )
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise ValueError(f"{path} is neither a file nor a folder: remove it from the run directory")


def _refuse_elsewhere(path: Path, key: str, named: str, spec: dict[str, Any], directory: Path) -> None:
    """Reject output paths of Lightning classes that lie outside the run directory. Default paths are allowed."""
    for inner, value in _walk(spec):
        name = re.split(r"[./]", inner)[-1]
        if not isinstance(value, str) or name not in (*FOLDERS, *NAMES) or value == _default(named, name):
            continue
        if not _within(Path(directory, value) if name in NAMES else Path(value), directory):
            raise ValueError(
                f"{path}: {key}.{name} is {value[:200]!r}, outside of the run directory: the config.yaml of a run "
                f"may not write there; give --{key.partition('.0')[0]} on the command line"
            )


def _default(class_path: str, name: str) -> Any:
    module, _, named = class_path.rpartition(".")
    with suppress(Exception):
        return inspect.signature(getattr(importlib.import_module(module), named)).parameters[name].default
    return None


def _places(top: str) -> list[Path]:
    """Return the locations of a package or module, without importing it."""
    with suppress(Exception):
        spec = importlib.util.find_spec(top)
        if spec is not None:
            origin = [spec.origin] if spec.origin and spec.has_location else []
            return [Path(each) for each in spec.submodule_search_locations or origin]
    return []


def _is_installed() -> set[Path]:
    paths = {*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))}
    return {Path(each) for each in paths}


def _within(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _drop(content: Any, key: str) -> None:
    """Remove a dotted key from settings. The settings may be nested or have dotted keys."""
    if not isinstance(content, dict):
        return
    for own in [each for each in content if isinstance(each, str)]:
        if own == key or own.startswith(f"{key}."):
            del content[own]
        elif key.startswith(f"{own}."):
            _drop(content[own], key.removeprefix(f"{own}."))


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values in nested settings, each with its keys joined by slashes."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            below = f"{key}/{name}" if key else str(name)
            yield below, inner
            yield from _walk(inner, below)
