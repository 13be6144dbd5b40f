import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.classification.image_sets import UNKNOWN
from datamodules.classification.imagenet import ImageNet32, LabelledImageNet32, read_batch


def write_batches(folder: Path, kind: str, num: int = 60) -> np.ndarray:
    folder.mkdir(parents=True)
    data = np.random.default_rng(0).integers(0, 256, (num, 3072), dtype=np.uint8)
    if kind == "npz":
        np.savez(folder / "train_data_batch_1.npz", data=data, labels=np.ones(num))
    else:
        content = {"data": data, "labels": [1] * num, "mean": data.mean(axis=0)}
        (folder / "train_data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    return data


@pytest.mark.parametrize("kind", ["npz", "pickle"])
@pytest.mark.parametrize("folder", ["", "imagenet32"])
def test_imagenet32_is_read_as_it_is_distributed(kind: str, folder: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    data = write_batches(root / folder, kind)
    images = ImageNet32(str(root), num_files=1).of_no_class((3, 32, 32), 0)
    assert np.array_equal(images.fetch(torch.tensor([7]), None)[0].numpy(), data[7].reshape(3, 32, 32))
    assert (images.label == UNKNOWN).all()
    with pytest.raises(FileNotFoundError, match="train_data_batch_2 does not exist"):
        ImageNet32(str(root), num_files=2).of_no_class((3, 32, 32), 0)
    with pytest.raises(ValueError, match="but in-distribution images are"):
        ImageNet32(str(root), num_files=1).of_no_class((1, 8, 8), 0)


class Opens:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    bad = tmp_path / "train_data_batch_1"
    bad.write_bytes(pickle.dumps({"data": Opens(tmp_path / "made")}))
    with pytest.raises(ValueError, match="train_data_batch_1"):
        read_batch(bad)
    assert not (tmp_path / "made").exists()
    bad.write_bytes(b"\x80\x04nonsense")
    with pytest.raises(ValueError, match="train_data_batch_1"):
        read_batch(bad)
    bad.write_bytes(pickle.dumps({"data": np.zeros((4, 5), dtype=np.uint8)}))
    with pytest.raises(ValueError, match=r"must be \[N, 3072\]"):
        read_batch(bad)


@pytest.mark.parametrize("suffix", ["", ".npz"])
def test_labels_are_read_counted_from_nought(suffix: str, tmp_path: Path) -> None:
    def write(name: str, first: int, labels: list[int]) -> None:
        content = {"data": np.full((len(labels), 3072), first, dtype=np.uint8), "labels": labels}
        path = tmp_path / f"{name}{suffix}"
        np.savez(path, **content) if suffix else path.write_bytes(pickle.dumps(content, protocol=2))  # type: ignore[arg-type]

    write("train_data_batch_1", 3, [1, 1000])
    write("train_data_batch_2", 4, [7])
    images = LabelledImageNet32(str(tmp_path), num_files=2)
    assert images.training().label.tolist() == [0, 999, 6]
    assert images.training().fetch(torch.tensor([1, 2]), None)[:, 0, 0, 0].tolist() == [3, 4]
    with pytest.raises(FileNotFoundError, match="val_data does not exist"):
        images.test()
    for wrong in ([0, 1], [1, 1001], [[1], [2]]):
        write("val_data", 5, wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"val_data.*: labels must be 2 numbers in 1...1000"):
            images.test()
    write("val_data", 5, [2])
    assert images.test().label.tolist() == [1]
