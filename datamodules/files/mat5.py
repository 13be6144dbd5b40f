"""Numeric arrays in `.mat` files of MATLAB 5 to 7.2.

SciPy's reader is not used, because a file of 200 bytes can crash it. SciPy's reader uses the type of an element as an
index into a table of pointers, without checking the bounds. The reader in this module supports only the part of the
format that is needed for numeric arrays.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.files.limits import DEFLATE_LIMIT, check_unpacked

HEADER = 128
"""Size of the file header in bytes. The header contains a descriptive text, the version and the byte order."""
MATRIX, COMPRESSED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""NumPy dtypes of the numbers in an element, by MATLAB's type code."""
NUMBERS = range(6, 16)
"""MATLAB's numeric array classes: double, single and eight integer types."""
OTHERS = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 16: "function", 17: "opaque"}
COMPLEX = 0x800
HEAD = 4096
"""Number of unpacked bytes of a compressed array that suffice to read its name and shape."""


class _Matrix(NamedTuple):
    """Header of an array."""

    name: str
    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    start: int
    """Position of the first number, in bytes from the beginning of the element's content."""


def _element(content: bytes, place: int, order: str) -> tuple[int, int, int, int]:
    """Return the type, start and length of the element at a position, and the position of the next element."""
    if place + 8 > len(content):
        raise ValueError("an element is incomplete")
    (tag,) = struct.unpack_from(f"{order}I", content, place)
    if tag >> 16:  # small element: up to 4 bytes next to its type
        return tag & 0xFFFF, place + 4, min(tag >> 16, 4), place + 8
    kind, length = struct.unpack_from(f"{order}2I", content, place)
    return kind, place + 8, length, place + 8 + (length + 7) // 8 * 8


def _head(content: bytes, order: str) -> _Matrix:
    """Read the header of an array: its flags, shape and name."""
    parts, place = [], 0
    for _ in range(3):
        kind, start, length, place = _element(content, place, order)
        if start + length > len(content):
            raise ValueError("an array ends within its header")
        parts.append((kind, content[start : start + length]))
    (flags_type, flags), (shape_type, sides), (name_type, name) = parts
    if flags_type != 6 or len(flags) != 8 or shape_type != 5 or len(sides) % 4 or name_type not in (1, 2, 16):
        raise ValueError("an array does not begin with its class, its shape and its name")
    shape = tuple(struct.unpack(f"{order}{len(sides) // 4}i", sides))
    if min(shape, default=-1) < 0 or len(shape) > 32:
        raise ValueError(f"an array has the invalid shape {list(shape)[:40]}")
    (word,) = struct.unpack_from(f"{order}I", flags)
    return _Matrix(name.decode("latin-1"), word & 0xFF, bool(word & COMPLEX), shape, place)


def _elements(content: bytes, order: str) -> Iterator[tuple[bool, bytes]]:
    """Iterate over the arrays of a file.

    For each array, yield whether it was compressed, and its bytes.
    """
    place = HEADER
    while place < len(content):
        if not any(content[place : place + 8]):  # padding at the end of the file
            return
        kind, start, length, following = _element(content, place, order)
        if kind not in (MATRIX, COMPRESSED) or start + length > len(content):
            raise ValueError("an element is not an array, or is incomplete")
        yield kind == COMPRESSED, content[start : start + length]
        place = start + length if kind == COMPRESSED else following


def _numbers(content: bytes, matrix: _Matrix, order: str) -> NDArray:
    kind, start, length, _ = _element(content, matrix.start, order)
    dtype = np.dtype(order + STORED[kind]) if kind in STORED else None
    if dtype is None or length != math.prod(matrix.shape) * dtype.itemsize or start + length > len(content):
        raise ValueError(f"{matrix.name} declares {list(matrix.shape)}, but has {length} bytes of type {kind}")
    flat = np.frombuffer(content, dtype, math.prod(matrix.shape), start)
    return flat.reshape(matrix.shape, order="F").astype(dtype.newbyteorder("="))


def read_mat5(path: Path, key: str) -> tuple[NDArray | None, list[str]]:
    """Read a numeric array from a file in the format of MATLAB 5 to 7.2.

    Returns:
        Two values: the array, in the dtype of the file, or None if the file has no array with the name `key`; and the
        names of all arrays in the file.

    Raises:
        NotImplementedError: if the file has the format of MATLAB 7.3.
        ValueError: if the file is damaged, or if the named array does not contain real numbers. The message does not
            name the file.
    """
    content = path.read_bytes()
    orders = {b"IM": "<", b"MI": ">"}
    if len(content) < HEADER or content[126:128] not in orders:
        raise ValueError("it does not begin like a file of MATLAB 5 or later")
    order = orders[content[126:128]]
    (version,) = struct.unpack_from(f"{order}H", content, 124)
    if version == 0x0200:
        raise NotImplementedError("it has the format of MATLAB 7.3")
    if version != 0x0100:
        raise ValueError(f"its version is {version:#06x}")
    names = []
    for is_packed, stored in _elements(content, order):
        inner = zlib.decompressobj().decompress(stored, HEAD) if is_packed else stored
        skipped = 8 if is_packed else 0  # tag inside the compressed array
        matrix = _head(inner[skipped:], order)
        names.append(matrix.name)
        if matrix.name != key:
            continue
        if matrix.kind not in NUMBERS or matrix.is_complex:
            kind = "complex" if matrix.is_complex else OTHERS.get(matrix.kind, str(matrix.kind))
            raise ValueError(f"{key} is of class {kind}, not numbers")
        size = math.prod(matrix.shape) * 8  # upper bound: numbers may be stored in fewer bytes
        if is_packed:
            check_unpacked(path, min(size, len(stored) * DEFLATE_LIMIT))
            inner = zlib.decompressobj().decompress(stored, skipped + matrix.start + size + 16)
        return _numbers(inner[skipped:], matrix, order), names
    return None, names
