"""Damaged, foreign or malicious weight files; the key of each file says what is wrong with it."""

import io
import json
import os
import pickle
import struct
import zipfile
from typing import Any

import torch
from safetensors.torch import save

STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3)}


def pth(content: Any, **options: Any) -> bytes:
    torch.save(content, stream := io.BytesIO(), **options)
    return stream.getvalue()


def safetensors(header: Any, content: bytes = b"", length: int | None = None) -> bytes:
    said = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(said) if length is None else length) + said + content


def entry(start: int, end: int, shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def deflated(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return stream.getvalue()


def zipped(name: str) -> bytes:
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as file:
        file.writestr(name, "text")
    return stream.getvalue()


class Calls:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


SAFE, SAVED, LEGACY = save(STATE), pth(STATE), pth(STATE, _use_new_zipfile_serialization=False)
FOREIGN = {"nothing": b"", "text": b"weights\n" * 9, "a zip": zipped("notes.txt"), "HTML": b"<!DOCTYPE html><html>"}
SAFETENSORS = {
    **FOREIGN,
    "cut in the header": SAFE[:40],
    "cut in the values": SAFE[:-5],
    "more than it says": SAFE + b"x",
    "a long header": safetensors({"a": entry(0, 4)}, b"1234", length=1 << 40),
    "a header of 100 MB": safetensors({"a": entry(0, 4)}, b"1234", length=99_999_999),
    "a short header": safetensors({"a": entry(0, 4)}, b"1234", length=3),
    "overlapping offsets": safetensors({"a": entry(0, 8, (2,)), "b": entry(4, 12, (2,))}, bytes(12)),
    "offsets behind the end": safetensors({"a": entry(0, 400, (100,))}, bytes(4)),
    "offsets in reverse": safetensors({"a": entry(4, 0)}, bytes(4)),
    "a hole": safetensors({"a": entry(8, 12)}, bytes(12)),
    "a huge shape": safetensors({"a": entry(0, 4, (1 << 62, 1 << 62))}, bytes(4)),
    "another type": safetensors({"a": {**entry(0, 4), "dtype": "PICKLE"}}, bytes(4)),
    "a list": safetensors([1]),
    "a deep header": safetensors(b"[" * 100_000),
    "a pickle": pickle.dumps(STATE["a"].tolist()),
    "another project's": SAVED,
}
PTH = {
    **FOREIGN,
    "cut": SAVED[:-50],
    "cut early": SAVED[:100],
    "cut, legacy": LEGACY[:-5],
    "legacy, cut early": LEGACY[:60],
    "compressed": deflated(SAVED),
    "a pickle that calls": pickle.dumps(Calls("ran"), 2),
    "one that calls inside": pth({"a": Calls("ran")}),
    "one that calls, legacy": pth({"a": Calls("ran")}, _use_new_zipfile_serialization=False),
    "rows that are not there": pth({"a": torch.zeros(1).expand(1 << 30)}),
    "sparse": pth({"a": torch.eye(3).to_sparse()}),
    "without values": pth({"a": torch.zeros(3, device="meta")}),
    "another project's": SAFE,
    "more values than there are": SAVED.replace(b"K\x06", b"K\x09"),
}
