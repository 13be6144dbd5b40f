"""Reading of the tensors in a TorchScript file.

Unlike PyTorch's reader, this reader does not run code from the file.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.files.array_pickle import check_operations
from datamodules.files.limits import check_is_file, sentence

STORAGES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "LongStorage": torch.int64}


class _Module:
    """Stand-in for a TorchScript module. `state` contains the attributes of the module by name."""

    def __init__(self) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Tensor):
        raise pickle.UnpicklingError("it builds a tensor from an object that is not a storage of values")
    return torch.as_strided(storage, size, stride, offset)  # checks the bounds


def _plain_list(values: Any, *_: Any) -> Any:
    return values


class _Unpickler(pickle.Unpickler):
    """Unpickler that replaces every name in the file with a stand-in or a plain type.

    The values of tensors are read from separate files in the archive.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        content = io.BytesIO(archive.read(f"{root}/data.pkl"))
        check_operations(content, len(content.getvalue()))
        super().__init__(content)
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in STORAGES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return _plain_list
        raise pickle.UnpicklingError(f"it would call {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, *_ = pid
        content = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        return torch.frombuffer(content, dtype=STORAGES[kind]) if content else torch.empty(0, dtype=STORAGES[kind])


def read_torch_script(file: Path) -> list[dict[str, Tensor]] | None:
    """Read the tensors of each module in a TorchScript file. Each module precedes its submodules in the result.

    Returns:
        The tensors of each module, by name, or None if the file is not a TorchScript file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, or contains objects other than modules and tensors. The message names the
            file.
    """
    check_is_file(file)
    if not zipfile.is_zipfile(file):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            names = [member.filename for member in archive.infolist()]
            roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
            if len(roots) != 1 or f"{roots[0]}/constants.pkl" not in names:
                return None
            if any(
                member.compress_size != member.file_size
                for member in archive.infolist()
                if "/code/" not in member.filename
            ):
                raise ValueError("it is compressed, but PyTorch writes no compressed files")
            return [*_tensors(_Unpickler(archive, roots[0]).load())]
    except Exception as error:  # a damaged file may raise almost any exception type
        raise ValueError(f"{file} is damaged or contains more than TorchScript modules: {sentence(error)}") from error


def _tensors(module: Any) -> Iterator[dict[str, Tensor]]:
    waiting, seen = [module], set()
    while waiting:
        each = waiting.pop()
        if not isinstance(each, _Module) or not isinstance(each.state, dict) or id(each) in seen:
            raise ValueError("its objects are not a tree of modules")
        seen.add(id(each))
        yield {name: value for name, value in each.state.items() if isinstance(value, Tensor)}
        waiting += reversed([value for value in each.state.values() if isinstance(value, _Module)])
