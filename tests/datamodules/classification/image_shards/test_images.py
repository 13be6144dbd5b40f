"""Images in shards equal the same images in folders: order, label noise, resuming, workers and ranks."""

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch

from datamodules.classification.folder_sets import ImageFolder
from datamodules.classification.image_sets import ImageSet
from datamodules.classification.image_shards import ImageShards
from datamodules.classification.image_shards.images import ImagesByOffset, ImagesInParquet
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from datamodules.corruptions.label_noise import FromCSV, Symmetric
from datamodules.loading import Loading
from tests.datamodules.classification.image_shards.shards import (
    encoded,
    samples,
    tar_members,
    write_parquet,
    write_shards,
    write_tar,
)
from tests.datamodules.image_folders import shades
from tests.datamodules.recorder import Recorder, joined, trained

KINDS = ("tar", "parquet", "cached tar", "cached parquet")
SIZES = {"image_size": 8, "resize": 10}
CLASSES = ["0", "1", "2"]


def images(root: Path, kind: str, **options: Any) -> ImageShards:
    """Write a training and a test split, and read them."""
    own = kind.split()[-1]
    if not (root / f"train-000.{own}").exists():
        write_shards(root, own, "train")
        write_shards(root, own, "test", per_class=2)
    cache = str(root / "cache") if kind.startswith("cached") else None
    return ImageShards(3, str(root), **{"test": "test*", "cache_dir": cache, **SIZES, **options})


def folder(root: Path) -> ImageFolder:
    shades(root, "train", CLASSES, per_class=5)
    shades(root, "test", CLASSES, per_class=2)
    return ImageFolder(str(root), **SIZES)


def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for key in ("index", "label", "image"):
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_epochs_are_those_of_the_same_images_in_folders(kind: str, num_workers: int, tmp_path: Path) -> None:
    """Compare order, crops, labels, label noise and the held-out samples."""
    options: dict[str, Any] = {"label_noise": Symmetric(0.4), "split": Split(0.2)}

    def run(source: ImageSet, name: str, workers: int) -> Recorder:
        data = LabelledImages(source, batch_size=4, loading=Loading(seed=3, num_workers=workers), **options)
        return trained(data, tmp_path / name, epochs=2)

    theirs = run(folder(tmp_path / "folder"), "run_of_folder", 0)
    ours = run(images(tmp_path / "shards", kind), "run_of_shards", num_workers)
    same(ours.trained, theirs.trained)
    same(ours.evaluated, theirs.evaluated)
    red, clean = joined(ours.trained, "image")[:, 0, 0, 0] * 255, joined(ours.trained, "clean_label")
    torch.testing.assert_close(red, 10.0 * clean)


def test_names_are_those_of_the_members_and_a_table_of_labels_goes_by_them(tmp_path: Path) -> None:
    for kind, first in (("tar", "train-000/0_0.png"), ("parquet", "train-000/0"), ("cached parquet", "train-000/0")):
        root = tmp_path / kind.split()[-1]
        source = images(root, kind)
        names = source.training().names
        assert (names[0], len(set(names))) == (first, 15)
        pd.DataFrame({"name": [names[7], names[0]], "label": [0, 2]}).to_csv(root / "labels.csv", index=False)
        noise = FromCSV(str(root / "labels.csv"), partial=True)
        data = LabelledImages(source, batch_size=4, label_noise=noise)
        data.setup("fit")
        assert data.train_set.label.tolist() == [2, 0, 0, 0, 0, 1, 1, 0, 1, 1, *[2] * 5]


def test_the_cache_is_used_again_and_not_for_a_changed_shard(tmp_path: Path) -> None:
    for kind, files in (("tar", 1), ("parquet", 2)):
        root = tmp_path / kind
        source = images(root, f"cached {kind}")
        source.fetch_missing()
        made = {path: path.stat().st_mtime_ns for path in (root / "cache").iterdir()}
        assert len(made) == files * (3 + 1)  # three training shards and a test shard
        assert isinstance(source.training(), ImagesByOffset)
        assert {path: path.stat().st_mtime_ns for path in (root / "cache").iterdir()} == made
        part = [(name, encoded(2, 9), 2) for name, *_ in samples(3, 5)[:6]]
        shard = root / f"train-000.{kind}"
        write_tar(shard, tar_members(part)) if kind == "tar" else write_parquet(shard, part)
        os.utime(shard, ns=(1, 1))
        changed = source.training()
        assert changed.label[:6].tolist() == [2] * 6
        assert changed.fetch(torch.arange(6), None)[:, 1, 0, 0].tolist() == [90] * 6


def test_the_names_of_classes_are_read_where_parquet_tells_them(tmp_path: Path) -> None:
    assert images(tmp_path, "parquet").class_names is None
    path = tmp_path / "train-000.parquet"
    said = b'{"info": {"features": {"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}}}}'
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": said}), path)
    assert images(tmp_path, "parquet").class_names == ["cat", "dog", "emu"]  # before reading, as in predict_dir


def test_a_group_of_rows_is_read_once_for_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.classification.image_shards.parquet_shards import ParquetShard

    source, read = images(tmp_path, "parquet").training(), []
    assert isinstance(source, ImagesInParquet)
    group = ParquetShard.group
    monkeypatch.setattr(ParquetShard, "group", lambda self, number: read.append(number) or group(self, number))
    row = torch.tensor([5, 0, 4, 1, 7, 5])  # groups 1 and 0 of the first shard, and 0 of the second
    fetched = source.fetch(row, None)
    assert sorted(read) == [0, 0, 1]
    assert torch.equal(fetched, torch.cat([source.fetch(one[None], None) for one in row]))


def test_shards_are_found_in_folders_and_by_patterns(tmp_path: Path) -> None:
    write_shards(tmp_path / "data" / "train", "tar", "part")
    (tmp_path / "data" / "train" / "README.md").touch()
    for train in ("data/train", "data/train/*.tar", "data/tr*", "data/train/part-00[0-2].tar"):
        assert len(ImageShards(3, str(tmp_path), train).training().label) == 15
    assert len(ImageShards(3, str(tmp_path), "data/train/part-000*").training().label) == 6


def refused(root: Path, sentence: str, **options: Any) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        ImageShards(**{"num_classes": 3, "data_dir": str(root), **SIZES, **options}).training()
    assert re.search(sentence, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_set_of_shards_is_one_sentence(tmp_path: Path) -> None:
    refused(tmp_path, r"train: \S+/train\* holds no \.tar or \.parquet file$")
    (tmp_path / "train-0.tar.gz").touch()
    refused(tmp_path, r"holds no .*; train-0\.tar\.gz is compressed and cannot be indexed: decompress it to \.tar$")
    write_shards(tmp_path, "tar", "train")
    refused(
        tmp_path,
        r"train-000\.tar: the sample 1_0\.png has the label 1, but num_classes 1 allows 0 \.\.\. 0",
        num_classes=1,
    )
    refused(tmp_path, r"train must be a folder or a pattern inside data_dir, got '/x'", train="/x")
    write_parquet(tmp_path / "train-9.parquet", samples(3, 1))
    refused(tmp_path, r"holds both \.tar and \.parquet files; select one format")
    with pytest.raises(
        FileNotFoundError, match=r"test is null; set it to a split, or hold out .* data\.split\.test_fraction"
    ):
        ImageShards(3, str(tmp_path)).test()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_named_by_shard_and_sample(kind: str, num_workers: int, tmp_path: Path) -> None:
    every = samples(3, 5)
    every[7] = ("1_2", every[7][1][:40], 1)
    own = kind.split()[-1]
    write_tar(tmp_path / "train.tar", tar_members(every)) if own == "tar" else write_parquet(
        tmp_path / "train.parquet", every
    )
    data = LabelledImages(
        images(tmp_path, kind, train=f"train.{own}"), batch_size=15, loading=Loading(num_workers=num_workers)
    )
    data.setup("fit")
    with pytest.raises(ValueError, match="cannot be read as an image") as raised:
        list(data.train_dataloader())
    sample = "1_2.png" if own == "tar" else "row 7" if kind == "parquet" else "7"
    said = rf"{tmp_path}/train\.{own}: {sample} cannot be read as an image \(.+\); replace or remove it"
    assert re.fullmatch(said, str(raised.value)), str(raised.value)


@pytest.mark.parametrize("kind", KINDS[2:])
def test_a_damaged_shard_is_raised_where_all_processes_read(kind: str, tmp_path: Path) -> None:
    """Every process raises the error, not only the one that prepares the data while the others wait."""
    source = images(tmp_path, kind)
    shard = tmp_path / f"train-001.{kind.split()[-1]}"
    shard.write_bytes(shard.read_bytes()[:900])
    source.fetch_missing()
    with pytest.raises(ValueError, match=r"train-001\.\S+ cannot be read as a \w+ shard of labelled images"):
        source.training()
