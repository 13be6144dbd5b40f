"""Columns of parquet shards, and rejections of malformed shards from other sources."""

import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from datamodules.classification.image_shards.parquet_shards import ParquetShard
from tests.datamodules.classification.image_shards.shards import encoded, samples, write_parquet

IMAGE = encoded(1, 2)


def shard(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path / "0.parquet")
    return path / "0.parquet"


def whole(path: Path) -> tuple[list[int], list[bytes]]:
    found = ParquetShard(path, "image", "label")
    return found.labels().tolist(), list(found.images())


def refused(path: Path, sentence: str, **columns: Any) -> None:
    path = shard(path, **columns) if columns else path
    with pytest.raises(ValueError, match="cannot be read as a parquet shard of labelled images") as raised:
        whole(path)
    assert re.search(sentence, str(raised.value)), str(raised.value)
    assert "0.parquet" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["structure", "binary", "large_binary"])
def test_rows_are_read_in_groups_and_in_a_row(kind: str, tmp_path: Path) -> None:
    every = samples(3, 5)
    content = [image for _, image, _ in every]
    path = write_parquet(tmp_path / "0.parquet", every, rows=4)
    if kind != "structure":
        column = pyarrow.array(content, pyarrow.binary() if kind == "binary" else pyarrow.large_binary())
        labels = pyarrow.array([label for *_, label in every], pyarrow.int8())
        table = pyarrow.table({"image": column, "label": labels})
        pyarrow.parquet.write_table(table, path, row_group_size=4)
    found = ParquetShard(path, "image", "label")
    assert len(found) == 15
    assert found.first_row.tolist() == [0, 4, 8, 12, 15]
    assert found.labels().tolist() == [label for *_, label in every]
    assert list(found.images()) == content
    assert [found.group(number).to_pylist() for number in range(4)] == [
        content[:4],
        content[4:8],
        content[8:12],
        content[12:],
    ]


def test_columns_of_other_names(tmp_path: Path) -> None:
    found = ParquetShard(shard(tmp_path, img=[IMAGE], fine_label=[7]), "img", "fine_label")
    assert (found.labels().tolist(), list(found.images())) == ([7], [IMAGE])


def test_what_is_no_shard_is_refused_in_a_sentence(tmp_path: Path) -> None:
    refused(tmp_path, r"image_key image is not a column; the columns are img, label", img=[IMAGE], label=[1])
    refused(tmp_path, r"label_key label is not a column; the columns are image, target", image=[IMAGE], target=[1])
    refused(tmp_path, r"column image must hold encoded images, as bytes, got string", image=["a.jpg"], label=[1])
    refused(tmp_path, r"must hold encoded images.* got struct", image=[{"path": "a.jpg"}], label=[1])
    refused(tmp_path, r"column label must hold whole numbers, got string", image=[IMAGE], label=["cat"])
    refused(tmp_path, r"column label must hold whole numbers, got double", image=[IMAGE], label=[1.0])
    refused(tmp_path, r"row 1 has no label", image=[IMAGE] * 2, label=[1, None])
    refused(tmp_path, r"row 1 has no image", image=[IMAGE, None], label=[1, 1])
    outside = [{"bytes": IMAGE, "path": None}, {"bytes": None, "path": "/etc/passwd"}]
    refused(tmp_path, r"row 1 has no image", image=outside, label=[1, 1])


def test_a_shard_that_is_cut_or_changed_is_refused(tmp_path: Path) -> None:
    content = write_parquet(tmp_path / "0.parquet", samples(3, 5)).read_bytes()
    for changed in (b"", content[:-20], content[: len(content) // 2], b"x" * len(content)):
        (tmp_path / "0.parquet").write_bytes(changed)
        refused(tmp_path / "0.parquet", ".")
    (tmp_path / "0.parquet").write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    refused(tmp_path / "0.parquet", ".")
