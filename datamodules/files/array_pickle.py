"""Read NumPy arrays from pickles in bounded memory, without running code from the file.

NumPy's unpickling functions do not validate their arguments. With an object dtype, these functions turn arbitrary bytes
into pointers. Therefore, no NumPy function is called while a file is read. Instead, names in the file resolve to
stand-in classes that only record plain values. Arrays are then built from these values if dtype, shape and number of
bytes agree.
"""

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from datamodules.files.limits import check_is_file, check_unpacked, sentence

PLAIN = re.compile(r"[<>|=]?([?bBhHiIlLqQefdg]|[biufcSU][0-9]+)")
"""Pattern of the names of numeric and text dtypes. Python objects, structured dtypes and dates are excluded."""


class _Type:
    """Stand-in for a `numpy.dtype`."""

    def __init__(self, name: str, align: Any = False, copy: Any = True) -> None:
        if not isinstance(name, str) or not PLAIN.fullmatch(name):
            raise pickle.UnpicklingError(f"it has an array of type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        """Record the byte order.

        Numeric and text dtypes have no other state.
        """
        version, order, subtype, names, fields, *_ = state
        if version not in (3, 4) or order not in ("<", ">", "|", "=") or (subtype, names, fields) != (None,) * 3:
            raise pickle.UnpicklingError(f"it has a dtype with the state {state!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stand-in for a NumPy array while the file is read."""

    def __init__(self, content: Any = b"", kind: Any = None, shape: Any = (0,), order: Any = "C") -> None:
        if kind is not None:
            self.value = _array(content, kind, shape, order)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        self.value = _array(content, kind, shape, "F" if fortran else "C")


class _Named:
    """Stand-in for a named function or class.

    A file may call this object or use it as an argument, but not modify it.

    Args:
        function: function to call in place of the named function. None means that calls are rejected.
    """

    __slots__ = ("_function",)
    _function: Callable[..., Any] | None

    def __init__(self, function: Callable[..., Any] | None) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        if self._function is None:
            raise pickle.UnpicklingError("it builds an array differently from NumPy")
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it sets the attribute {name}")


ARRAY_CLASS = _Named(None)
"""Stand-in for the class `numpy.ndarray`. A file may only use this class as an argument of `_reconstruct`."""


def _array(content: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Build an array from bytes; the number of bytes must agree with the dtype and the shape."""
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray) or order not in ("C", "F"):
        raise pickle.UnpicklingError("it has an array of neither numbers nor text")
    sizes = (shape,) if isinstance(shape, int) else shape
    if not isinstance(sizes, tuple) or not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise pickle.UnpicklingError(f"it has an array of shape {shape!r}")
    if math.prod(sizes) * kind.dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"it has an array {list(sizes)} of {kind.dtype}, but {len(content)} bytes")
    if not len(content):
        return np.empty(sizes, kind.dtype)
    return np.frombuffer(bytearray(content), kind.dtype).reshape(sizes, order=order)


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> _Array:
    if kind is not ARRAY_CLASS:
        raise pickle.UnpicklingError("it has an array of a subclass of numpy.ndarray")
    return _Array()


def _scalar(kind: Any, content: Any = b"") -> Any:
    return _array(content, kind, (), "C")[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it calls `codecs.encode` other than to rebuild bytes")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


STAND_INS = {
    ("numpy", "ndarray"): ARRAY_CLASS,
    ("numpy", "dtype"): _Named(_Type),
    ("__builtin__", "bytes"): _Named(_no_bytes),
    ("_codecs", "encode"): _Named(_encode),  # used for bytes by old pickle protocols
    **{
        (f"numpy.{core}.{module}", name): _Named(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _Array),
        )
    },
}
"""Names of all functions and classes that a pickle may use, for arrays, numbers, text, lists, tuples and dicts."""


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler that replaces all functions and classes by harmless stand-ins.

    Arrays are built from the stand-ins afterwards.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return STAND_INS[module, name]


MARK = -1
"""Value that represents the pickle opcode MARK on the simulated stack of the unpickler."""


def check_operations(file: BinaryIO, size: int) -> None:
    """Reject a pickle, before it is loaded, if loading it could take hours or need gigabytes of memory.

    Memo indices must be smaller than the size of the file, because memory is allocated for all indices up to the
    largest one. A tuple, counted with all nested values, must not contain more values than the file has bytes.
    Otherwise, each tuple in a short pickle could contain the previous tuple twice, and hashing the last tuple as a dict
    key would take exponential time.
    """
    start = file.tell()
    stack: list[int] = []
    memo: dict[int, int] = {}
    for operation, number, _ in pickletools.genops(file):
        name = operation.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(memo) if number is None else int(number)
            if place >= size:
                raise pickle.UnpicklingError(f"it stores an object at memo index {place}, but has only {size} bytes")
            memo[place] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(number or 0)])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            values = _pop(stack, operation)
            held = 1 + sum(values) if operation.name.startswith("TUPLE") else 1
            if held > size:
                raise pickle.UnpicklingError(f"it has a tuple of {held} values, but only {size} bytes")
            stack += [MARK if name == "MARK" else held] * len(operation.stack_after)
    file.seek(start)


def _pop(stack: list[int], operation: pickletools.OpcodeInfo) -> list[int]:
    """Pop the operands of an operation from the stack, and return how many values each operand contains."""
    before = list(operation.stack_before)
    values: list[int] = []
    if pickletools.markobject in before:
        while (value := stack.pop()) != MARK:
            values.append(value)
        before = before[: before.index(pickletools.markobject)]
    values += [stack.pop() for _ in before]
    return values


class _Plain:
    """Replace the stand-ins in plain containers with arrays.

    Args:
        size: size of the file in bytes, which is also the largest allowed number of values. A file can contain more
            values than bytes only if lists at every level of nesting refer repeatedly to the same inner list.
    """

    def __init__(self, size: int) -> None:
        self.left = size

    def __call__(self, value: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError("it contains more values than bytes")
        if isinstance(value, _Array):
            return value.value
        if isinstance(value, dict):
            return {self(key): self(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self, value))
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
            return value
        raise pickle.UnpicklingError(f"it contains a {type(value).__name__}")


def _load(file: BinaryIO, size: int) -> Any:
    """Read the pickle at the current position of a file of `size` bytes."""
    check_operations(file, size)
    return _Plain(size)(ArrayUnpickler(file).load())


def read_pickled_arrays(path: Path) -> Any:
    """Read a pickle of arrays of numbers or text in plain containers."""
    try:
        check_is_file(path)
        with path.open("rb") as file:
            return _load(file, path.stat().st_size)
    except Exception as error:  # a damaged pickle may raise almost any exception type
        raise ValueError(f"{path} is damaged or not a pickle that contains only NumPy arrays: {error}") from error


LEGACY_HEAD = 3
"""Number of pickles before the object in PyTorch's old file format: magic number, protocol version and system info."""


def read_torch_arrays(path: Path) -> Any:
    """Read NumPy arrays from a file written by `torch.save`.

    `torch.load` is not used, because it calls NumPy's unpickling functions, even with `weights_only`. These functions
    trust the contents of the file.

    Raises:
        ValueError: if the file is damaged or contains other objects, such as tensors. The message does not name the
            file.
    """
    check_is_file(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = [each for each in archive.infolist() if each.filename.endswith("/data.pkl")]
                if len(found) != 1:
                    raise ValueError(f"it contains {len(found)} files named data.pkl")
                check_unpacked(path, found[0].file_size)
                content = archive.read(found[0])
            return _load(io.BytesIO(content), len(content))
        with path.open("rb") as file:
            size = path.stat().st_size
            return [_load(file, size) for _ in range(LEGACY_HEAD + 1)][-1]
    except Exception as error:  # a damaged file may raise almost any exception type
        raise ValueError(sentence(error)) from error
