"""Shards of small images; the red value of an image is its class, and the green value its position in the class."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

Sample = tuple[str, bytes, int]
"""Name, encoded image, label."""


def encoded(label: int, position: int) -> bytes:
    Image.new("RGB", (40, 30), (10 * label, 10 * position, 100)).save(memory := io.BytesIO(), "PNG")
    return memory.getvalue()


def samples(classes: int, per_class: int) -> list[Sample]:
    """List samples class by class, in the order of the files that `tests.datamodules.image_folders.shades` writes."""
    return [(f"{c}_{p}", encoded(c, p), c) for c in range(classes) for p in range(per_class)]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def tar_members(part: Sequence[Sample], as_json: bool = False) -> list[tuple[str, bytes]]:
    members = []
    for name, image, label in part:
        said = ("json", json.dumps({"label": label, "other": [1]})) if as_json else ("cls", str(label))
        members += [(f"{name}.png", image), (f"{name}.{said[0]}", said[1].encode())]
    return members


def write_parquet(path: Path, part: Sequence[Sample], rows: int = 4, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "image": [{"bytes": image, "path": f"{name}.png"} for name, image, _ in part],
        "label": [label for *_, label in part],
        **columns,
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path, row_group_size=rows)
    return path


def write_shards(root: Path, kind: str, split: str, classes: int = 3, per_class: int = 5, each: int = 6) -> None:
    """Write the samples of a split in shards of `each` samples."""
    every = samples(classes, per_class)
    for start in range(0, len(every), each):
        part, path = every[start : start + each], root / f"{split}-{start // each:03}.{kind}"
        if kind == "tar":
            write_tar(path, tar_members(part, as_json=bool(start)))
        else:
            write_parquet(path, part)
