"""Reading of tensors from safetensors files and from files of `torch.save`, without running code from a file."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from datamodules.files.limits import check_is_file, sentence

MOST_MODULES, MOST_CHARACTERS = 10_000, 10_000_000
"""Limits of a pickled model: number of modules, and total length of the names of modules and tensors."""
EXPANDED = 1 << 26
"""Largest permitted size, in bytes, of a tensor that is larger than its storage in the file (an expanded tensor)."""


class Ignored:
    """Stand-in for an object of any class in a file. The class is not imported, and the object's state is dropped."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Remembered(Ignored):
    """Stand-in for an object of any class in a file. The class is not imported, but the object's state is kept."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_tensors(file: Path, ignore_objects: bool = False) -> Any:
    """Read a weights file to the CPU. The file may contain tensors, numbers and text, in dicts and lists.

    Args:
        file: a safetensors file, which is recognised by its suffix, or a file that `torch.save` wrote.
        ignore_objects: whether to replace objects of other classes, such as those in the hyperparameters of a Lightning
            checkpoint, with stand-ins of the class `Ignored`. If false, a file with such objects is rejected. In both
            cases, no code of these classes is run.
    """
    return _read(file, Ignored if ignore_objects else None)


def read_pickled_module(file: Path) -> Any:
    """Read a pickle of a whole model (`torch.save(module)`) as a state dict, without running code of its classes.

    The state dict includes non-persistent buffers. A file that contains only tensors is read in the same way as by
    `read_tensors`.
    """
    content = _read(file, Remembered)
    return _tensors_of(content, file) if isinstance(content, Remembered) else content


def _tensors_of(module: Remembered, file: Path) -> dict[str, Tensor]:
    """Collect the parameters and buffers of a module and of all its submodules."""
    waiting: list[tuple[str, Any]] = [("", module)]
    found: dict[str, Tensor] = {}
    modules = characters = 0  # a module may contain itself, even many times and with long names
    while waiting:
        prefix, each = waiting.pop()
        modules += 1
        state = each.state if isinstance(each, Remembered) and isinstance(each.state, Mapping) else {}
        for kind in ("_parameters", "_buffers", "_modules"):
            own = state.get(kind)
            for name, value in own.items() if isinstance(own, Mapping) else ():
                key = f"{prefix}{name}" if isinstance(name, str) else ""
                characters += len(key) + 1
                if modules > MOST_MODULES or characters > MOST_CHARACTERS:
                    raise ValueError(
                        f"{file} must contain a model of at most {MOST_MODULES} modules, whose names have at most "
                        f"{MOST_CHARACTERS} characters in all"
                    )
                if kind == "_modules":
                    waiting.append((f"{key}.", value))
                elif isinstance(value, Tensor):
                    found[key] = value.detach()
    return found


def _read(file: Path, stand_in: type[Ignored] | None) -> Any:
    """Read a file. Objects of other classes are replaced with `stand_in`, or rejected if it is None."""
    check_is_file(file)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("it is compressed, but torch.save writes no compressed files")
        known: list[Any] = []
        if stand_in is not None:
            known = [(stand_in, name) for name in get_unsafe_globals_in_checkpoint(file)]
        with safe_globals(known):
            content = torch.load(file, "cpu", weights_only=True)
        _check_plain(content)
        return content
    except Exception as error:  # a damaged file may raise almost any exception type
        reason = sentence(RuntimeError(str(error).strip().split("\n")[0]))
        raise ValueError(f"{file} is not a readable weights file (or contains more than tensors): {reason}") from error


def _check_plain(content: Any) -> None:
    """Reject tensors that have no values, are not strided, or declare many more values than the file contains."""
    waiting, known = [content], set()
    while waiting:
        each = waiting.pop()
        if id(each) in known:  # containers may contain each other
            continue
        known.add(id(each))
        if isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each
        elif isinstance(each, Remembered):
            waiting.append(each.state)
        elif isinstance(each, Tensor):
            if each.layout != torch.strided or each.is_meta or each.is_quantized or each.is_nested:
                raise ValueError("it has a tensor that is sparse, quantized, nested or without values")
            if each.nbytes > max(EXPANDED, each.untyped_storage().nbytes()):
                raise ValueError(
                    f"it declares {list(each.shape)} of {each.dtype}, but has {each.untyped_storage().nbytes()} bytes"
                )
