"""Index of a tar shard: for each sample, the byte range of the encoded image, and the label or caption."""

import json
import os
import re
import tarfile
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.files.image_files import SUFFIXES
from datamodules.files.limits import check_is_file, sentence

SAMPLE = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
"""WebDataset's pattern of member names: a key (all that precedes the file name's first dot), the dot, and a column."""
LABEL_BYTES, JSON_BYTES, NAME_BYTES = 64, 1 << 20, 255
"""Maximal numbers of bytes of a `.cls` member, a `.json` member and a member's name."""


class ShardIndex(NamedTuple):
    """The samples of one shard, in order."""

    name: NDArray[np.bytes_]
    """Names of the image members, `[n]`."""
    label: NDArray[np.int64]
    offset: NDArray[np.int64]
    """Position of the first byte of each encoded image, `[n]`."""
    size: NDArray[np.int64]
    """Number of bytes of each encoded image, `[n]`."""


def read_tar_index(path: Path, label_key: str) -> ShardIndex:
    """Index the samples of a tar shard from its headers and labels, without reading images or extracting files.

    A sample is an image `<key>.<format>` with its label in `<key>.cls` (a number) or in `<key>.json` (under
    `label_key`). Hidden members, members whose names begin with two underscores, and members of any other type are
    ignored.
    """
    name, label, offset, size = _rows(path, ("cls", "json"), partial(_label, label_key=label_key), "labelled")
    return ShardIndex(np.array(name, dtype=np.bytes_), np.array(label), np.array(offset), np.array(size))


def read_captioned_tar_index(path: Path, caption_column: str | None) -> tuple[ShardIndex, list[str]]:
    """Index the samples of a tar shard like `read_tar_index`, but read captions instead of labels.

    The caption of an image `<key>.<format>` is the text in `<key>.txt`, or the value of `caption_column` in
    `<key>.json`. If `caption_column` is None, captions are not read, and every caption is empty. All labels are 0.
    """
    read: Any = (lambda *_: "") if caption_column is None else partial(_caption, caption_column=caption_column)
    columns = () if caption_column is None else ("txt", "json")
    name, caption, offset, size = _rows(path, columns, read, "captioned")
    label = np.zeros(len(name), dtype=np.int64)
    return ShardIndex(np.array(name, dtype=np.bytes_), label, np.array(offset), np.array(size)), list(caption)


def _rows(
    path: Path, columns: Collection[str], read: Callable[[int, str, dict[str, tarfile.TarInfo]], Any], kind: str
) -> Iterator[tuple[Any, ...]]:
    """Return the names, the labels or captions, the offsets and the sizes of all samples in a shard."""
    check_is_file(path)
    try:
        with path.open("rb") as stream:
            archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115
            rows = list(_samples(stream.fileno(), archive, columns, read))
        if not rows:
            raise ValueError("it contains no image")
    except Exception as error:  # a damaged file can raise almost any exception type
        raise ValueError(f"{path} cannot be read as a tar shard of {kind} images: {sentence(error)}") from error
    return zip(*rows, strict=True)


def _samples(
    file: int,
    archive: tarfile.TarFile,
    columns: Collection[str],
    read: Callable[[int, str, dict[str, tarfile.TarInfo]], Any],
) -> Iterator[tuple[bytes, Any, int, int]]:
    length, seen = os.fstat(file).st_size, set()
    for key, members in _group(file, archive, length, columns):
        if key in seen:
            raise ValueError(f"the members of the sample {key} are not consecutive, or the sample occurs twice")
        seen.add(key)
        images = [member for column, member in members.items() if f".{column.lower()}" in SUFFIXES]
        if len(images) != 1:
            held = ", ".join(sorted(members))
            raise ValueError(f"the sample {key} has {len(images)} images, but must have one; its columns are {held}")
        name = os.fsencode(images[0].name)
        if len(name) > NAME_BYTES:
            raise ValueError(f"the name {images[0].name[:40]}... has more than {NAME_BYTES} bytes")
        yield name, read(file, key, members), images[0].offset_data, images[0].size


def _group(
    file: int, archive: tarfile.TarFile, length: int, columns: Collection[str]
) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """For each sample, yield its key and a dict of its members by column; check that the archive is complete."""
    key, members, before = "", dict[str, tarfile.TarInfo](), -1
    for member in archive:
        if member.size < 0 or member.issparse() or member.offset_data + member.size > length:
            raise ValueError(f"the member {member.name} declares more bytes than the file has")
        if member.offset <= before:
            raise ValueError(f"the member {member.name} begins before the previous one")
        before = member.offset
        base = member.name.rsplit("/", 1)[-1]
        parts = SAMPLE.fullmatch(member.name)
        if not member.isreg() or parts is None or base.startswith((".", "__")):
            continue
        own, column = parts.groups()
        if own != key:
            if members:
                yield key, members
            key, members = own, {}
        if column in members:
            raise ValueError(f"it contains {member.name} twice")
        if column in columns or f".{column.lower()}" in SUFFIXES:
            members[column] = member
        archive.members.clear()  # type: ignore[attr-defined]  # there may be millions
    if os.pread(file, tarfile.BLOCKSIZE, archive.offset) != bytes(tarfile.BLOCKSIZE):
        raise ValueError(
            f"at byte {archive.offset} there is neither a member nor the end of the archive: the file is damaged"
        )
    if members:
        yield key, members


def _label(file: int, key: str, members: dict[str, tarfile.TarInfo], label_key: str) -> int:
    """Read the label of a sample, an integer of at most nine digits."""
    if (member := members.get("cls")) is not None:
        text = _content(file, member, LABEL_BYTES).decode("ascii", "replace").strip()
        if re.fullmatch(r"-?\d{1,9}", text, re.ASCII) is None:
            raise ValueError(f"the label in {member.name} must be a whole number, got {text[:40]!r}")
        return int(text)
    if (member := members.get("json")) is None:
        raise ValueError(f"the sample {key} has no label, neither {key}.cls nor {key}.json")
    try:
        value = json.loads(_content(file, member, JSON_BYTES))[label_key]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{member.name} does not contain {label_key!r} ({sentence(error)})") from error
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 10**9:
        raise ValueError(f"{label_key!r} in {member.name} must be a whole number, got {str(value)[:40]!r}")
    return value


def _caption(file: int, key: str, members: dict[str, tarfile.TarInfo], caption_column: str) -> str:
    """Read a sample's caption."""
    if (member := members.get("txt")) is not None:
        return _content(file, member, JSON_BYTES).decode("utf-8-sig").strip()
    if (member := members.get("json")) is None:
        raise ValueError(f"the sample {key} has no caption: it has neither {key}.txt nor {key}.json")
    try:
        text = json.loads(_content(file, member, JSON_BYTES))[caption_column]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{member.name} does not contain {caption_column!r} ({sentence(error)})") from error
    if not isinstance(text, str):
        raise ValueError(f"{caption_column!r} in {member.name} must be text, got {str(text)[:40]!r}")
    return text


def _content(file: int, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most:
        raise ValueError(f"{member.name} has {member.size} bytes, more than the limit of {most} bytes")
    return os.pread(file, member.size, member.offset_data)
