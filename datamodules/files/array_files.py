"""Read arrays from `.npy` and `.npz` files without unpickling, in bounded memory.

Before it reads any data, NumPy allocates the memory that a header declares. Each header is therefore first compared
with the number of bytes in the file. After decompression, arrays may take at most 1 GiB or 100 times the size of the
file, whichever is larger.
"""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy_format
from numpy.typing import NDArray

from datamodules.files.limits import DEFLATE_LIMIT, check_is_file, check_unpacked, sentence

PLAIN_KINDS = "biufcSU"
"""Codes (`dtype.kind`) of numeric and text dtypes. Python objects, structured dtypes and dates are excluded."""


def _check_header(stream: IO[bytes], size: int) -> None:
    """Reject an array whose header does not match the number of bytes in the file, or is not supported.

    Args:
        stream: open file, positioned at its beginning.
        size: number of bytes of the header and the array together.
    """
    version = npy_format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format version is {version[0]}.{version[1]}; only versions 1.0 and 2.0 are supported")
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.kind not in PLAIN_KINDS or dtype.itemsize == 0:
        raise ValueError(f"it is of type {dtype}, neither numbers nor text")
    content = size - stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != content or max(shape, default=0) > size:
        raise ValueError(f"it declares an array {list(shape)} of {dtype}, but has {content} bytes of data")


def read_npy(path: Path) -> NDArray[Any]:
    """Read an array of numbers or text from an `.npy` file."""
    check_is_file(path)
    try:
        with path.open("rb") as stream:
            _check_header(stream, path.stat().st_size)
            stream.seek(0)
            return npy_format.read_array(stream, allow_pickle=False)
    except Exception as error:  # a damaged file may raise almost any exception type
        raise ValueError(f"{path} is damaged or not an .npy file of numbers or text: {sentence(error)}") from error


def read_npz(path: Path, needed: Collection[str] = (), optional: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """Read named arrays of numbers or text from an `.npz` file.

    All other members of the archive are ignored.

    Args:
        path: `.npz` file.
        needed: names of required arrays.
        optional: names of arrays that are read only if the file contains them.

    Returns:
        Dict of the arrays by name: all required arrays, and those optional arrays that the file contains.
    """
    check_is_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            if not (lacking := [name for name in needed if name not in members]):
                kept = {name: members[name] for name in (*needed, *optional) if name in members}
                _check_budget(path, kept)
                return {name: _array(archive, name, member) for name, member in kept.items()}
    except Exception as error:  # a damaged file may raise almost any exception type
        raise ValueError(f"{path} is damaged or not an .npz file of numbers or text: {sentence(error)}") from error
    held = ", ".join(map(repr, list(members)[:10])) or "nothing"
    raise ValueError(f"{path} lacks {', '.join(lacking)}; it has {held}{' and more' if len(members) > 10 else ''}")


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"it contains {name!r} twice")
        members[name] = member
    return members


def _check_budget(path: Path, members: dict[str, zipfile.ZipInfo]) -> None:
    """Reject archive members whose declared sizes are impossible or exceed the memory budget."""
    size = path.stat().st_size
    for name, member in members.items():
        limit = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: DEFLATE_LIMIT}.get(member.compress_type)
        if limit is None:
            raise ValueError(f"{name!r} is neither stored nor deflated, although NumPy writes no other format")
        if member.compress_size > size or member.file_size > limit * member.compress_size:
            raise ValueError(f"{name!r} declares {member.file_size} bytes, compressed to {member.compress_size} bytes")
    check_unpacked(path, sum(member.file_size for member in members.values()))


def _array(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> NDArray[Any]:
    try:
        with archive.open(member) as stream:
            _check_header(stream, member.file_size)
        with archive.open(member) as stream:
            return npy_format.read_array(stream, allow_pickle=False)
    except Exception as error:
        raise ValueError(f"{name!r}: {sentence(error)}") from error
