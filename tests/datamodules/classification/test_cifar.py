import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from datamodules.classification.cifar import CIFAR, CIFAR10, CIFAR100
from datamodules.corruptions.label_noise import AsymmetricCIFAR10

SETS: dict[type[CIFAR], tuple[int, str]] = {CIFAR10: (10, "labels"), CIFAR100: (100, "fine_labels")}
PER_CLASS = 2


def content(num_classes: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images `[N, 3, 32, 32]` and labels; each class has two training images and one test image."""
    random = np.random.default_rng([num_classes, len(split)])
    label = random.permutation(np.repeat(np.arange(num_classes), PER_CLASS if split == "train" else 1))
    return random.integers(256, size=(len(label), 3, 32, 32), dtype=np.uint8), label


def encoded(image: np.ndarray) -> dict[str, Any]:
    """Encode an image `[3, H, W]` as in Hugging Face's tables."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": None}


def pickled(path: Path, value: dict[Any, Any]) -> tuple[str, str]:
    """Pickle a value to a file, and return the file's name and checksum, as in torchvision's lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))
    return path.name, hashlib.md5(path.read_bytes()).hexdigest()


def write_torchvision_layout(kind: type[CIFAR], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_classes, key = SETS[kind]
    folder = root / kind.archive
    files: dict[str, list[tuple[str, str]]] = {}
    for split in ("train", "test"):
        image, label = content(num_classes, split)
        halves = np.array_split(np.arange(len(label)), 2 if split == "train" else 1)
        batches = [{"data": image[rows].reshape(len(rows), -1), key: label[rows].tolist()} for rows in halves]
        files[split] = [pickled(folder / f"{split}_{number}", batch) for number, batch in enumerate(batches)]
    name, checksum = pickled(folder / "meta", {"names": [str(k) for k in range(num_classes)]})
    monkeypatch.setattr(kind.torchvision_class, "train_list", files["train"])
    monkeypatch.setattr(kind.torchvision_class, "test_list", files["test"])
    monkeypatch.setattr(kind.torchvision_class, "meta", {"filename": name, "key": "names", "md5": checksum})


def write_parquet_layout(kind: type[CIFAR], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        image, label = content(SETS[kind][0], split)
        for number, rows in enumerate(np.array_split(np.arange(len(label)), 2)):
            images = [encoded(image[row]) for row in rows]
            table = pd.DataFrame({"img": images, kind.label_key: label[rows], "coarse_label": 0})
            table.to_parquet(folder / f"{split}-{number:05d}-of-00002.parquet")


def assert_read(data: CIFAR) -> None:
    num_classes = SETS[type(data)][0]
    for split, source in {"train": data.training(), "test": data.test()}.items():
        image, label = content(num_classes, split)
        assert source.image.dtype == torch.uint8
        np.testing.assert_array_equal(source.image.numpy(), image)
        assert source.label.dtype == torch.int64
        np.testing.assert_array_equal(source.label.numpy(), label)
    assert data.num_classes == num_classes
    assert data.image_shape == (3, 32, 32)


@pytest.mark.parametrize("kind", SETS)
def test_torchvisions_layout(kind: type[CIFAR], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_torchvision_layout(kind, tmp_path, monkeypatch)
    assert_read(kind(str(tmp_path)))


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("folder", [".", "plain_text", "{name}", "{name}/plain_text", "{name}/{name}"])
def test_hugging_faces_layout(kind: type[CIFAR], folder: str, tmp_path: Path) -> None:
    write_parquet_layout(kind, tmp_path / folder.format(name=kind.__name__.lower()))
    assert_read(kind(str(tmp_path)))


def test_the_environment_says_where_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet_layout(CIFAR10, tmp_path / "cifar10")
    monkeypatch.setenv("NOISEWORKS_DATA", str(tmp_path))
    assert_read(CIFAR10())
    with pytest.raises(FileNotFoundError, match=r"data_dir .*elsewhere does not exist"):
        CIFAR10(str(tmp_path / "elsewhere")).training()
    (file := tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(NotADirectoryError, match=r"CIFAR-10: data_dir .*tar\.gz is a file"):
        CIFAR10(str(file)).training()
    monkeypatch.delenv("NOISEWORKS_DATA")
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10: set data_dir, or the environment variable"):
        CIFAR10().training()


def test_class_names_of_cifar10_fit_the_flips_of_its_noise() -> None:
    names = CIFAR10.class_names
    flips = {(names[source], names[target]) for source, target in AsymmetricCIFAR10.flips}
    assert flips == {
        *{("truck", "automobile"), ("bird", "airplane"), ("deer", "horse"), ("cat", "dog"), ("dog", "cat")},
    }


def test_nothing_is_downloaded_that_is_there_or_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, bool]] = []

    def record(root: Path, train: bool = True, download: bool = False) -> None:
        asked.append((Path(root), download))

    monkeypatch.setattr(CIFAR10, "torchvision_class", staticmethod(record))
    CIFAR10(str(tmp_path)).fetch_missing()
    write_parquet_layout(CIFAR10, tmp_path / "there")
    CIFAR10(str(tmp_path / "there"), download=True).fetch_missing()
    assert asked == []
    CIFAR10(str(tmp_path / "new"), download=True).fetch_missing()
    assert asked == [(tmp_path / "new", True)]
    assert (tmp_path / "new").is_dir()
