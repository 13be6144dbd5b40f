import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.classification.image_sets import UNKNOWN
from datamodules.classification.imagenet import ImageNet, ImageNet32, LabelledImageNet32, read_batch, read_class_map
from tests.datamodules.classification.patterns import loaded
from tests.datamodules.classification.shifted import SMALL, paint, reds
from tests.datamodules.image_folders import WNIDS, shades


def folder_of_imagenet(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "imagenet"
    shades(root, "train", WNIDS, per_class=2)
    shades(root, "val", WNIDS, per_class=1)
    return root


imagenet = pytest.fixture(folder_of_imagenet)


def test_the_first_classes_of_imagenet(imagenet: Path) -> None:
    data = loaded(ImageNet, str(imagenet), classes=3, batch_size=4)
    assert (data.num_classes, data.image_shape) == (3, (3, 224, 224))
    data.setup("fit")
    data.setup("test")
    assert data.class_names == WNIDS[:3]
    assert data.train_set.label.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test_set.label.tolist() == [0, 1, 2]
    above = loaded(ImageNet, str(imagenet.parent), classes=3, batch_size=4)
    above.setup("test")
    assert above.class_names == WNIDS[:3]


def test_a_list_of_classes_is_numbered_by_wnid(imagenet: Path, tmp_path: Path) -> None:
    """Whatever the order of the list, classes get the numbers that torchvision gives to the folders of this subset."""
    listed = tmp_path / "imagenet2.txt"
    listed.write_text(f"{WNIDS[3]} hammerhead\n\n{WNIDS[1]}\n")
    data = loaded(ImageNet, str(imagenet), classes=str(listed), batch_size=2)
    assert data.num_classes == 2
    data.setup("test")
    assert data.class_names == [WNIDS[1], WNIDS[3]]
    red = data.test_set.source.fetch(torch.tensor([0, 1]), None)[:, 0, 0, 0]
    assert red.tolist() == [10, 30]
    listed.write_text(f"{WNIDS[3]}\n{WNIDS[3]}\n")
    with pytest.raises(ValueError, match=rf"lists {WNIDS[3]} more than once"):
        loaded(ImageNet, str(imagenet), classes=str(listed))
    with pytest.raises(FileNotFoundError, match=r"classes: .*nowhere\.txt does not exist"):
        loaded(ImageNet, str(imagenet), classes=str(tmp_path / "nowhere.txt"))


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


FOUR = ["n01", "n02", "n05", "n09"]


def folder_of_sets(root: Path, **sets: list[str]) -> Path:
    """Write one image per folder of `train`, `val` and each shifted set; red is 10 times the place of the folder."""
    for split, folders in {"train": FOUR, "val": FOUR, **sets}.items():
        for number, folder in enumerate(folders):
            paint(root / split / folder / "a.png", 10 * number)
    return root


def test_folders_called_by_wnid_give_the_labels_of_imagenet_and_say_which_classes_there_are(tmp_path: Path) -> None:
    root = folder_of_sets(tmp_path, r=["n02", "n09"], sketch=FOUR, a=["n01", "n07"])
    data = ImageNet(shifted={"r": "r", "sketch": "sketch", "a": "a"}, data_dir=str(root), classes=4, **SMALL)
    shifted = data.ood_test_sets()
    assert shifted["r"].label.tolist() == [1, 3]
    assert shifted["r"].classes.tolist() == [1, 3]
    assert shifted["sketch"].label.tolist() == [0, 1, 2, 3]
    assert shifted["sketch"].classes is None
    assert (shifted["a"].label.tolist(), reds(data, shifted["a"])) == ([0], [0])  # n07 is not one of the four


def test_numbered_folders_count_the_wnids_of_all_classes(tmp_path: Path) -> None:
    wnids = [f"n{number:08}" for number in range(1000)]
    (tmp_path / "classes.txt").write_text("\n".join(wnids))
    for name in ("7", "999", "12"):
        paint(tmp_path / "v2" / name / "a.png", 5)
    data = ImageNet(shifted={"v2": "v2"}, data_dir=str(tmp_path), classes=str(tmp_path / "classes.txt"), **SMALL)
    assert sorted(data.ood_test_sets()["v2"].label.tolist()) == [7, 12, 999]
    paint(tmp_path / "v2" / "1000" / "a.png", 5)
    with pytest.raises(ValueError, match="holds a folder 1000, but classes are numbered"):
        data.ood_test_sets()


def test_names_of_their_own_are_translated(tmp_path: Path) -> None:
    root = folder_of_sets(tmp_path, objectnet=["chair", "desk lamp", "spoon"])
    (root / "map.txt").write_text("n09 chair\nn02 desk lamp\n")
    assert read_class_map(root / "map.txt") == {"chair": "n09", "desk lamp": "n02"}
    data = ImageNet(str(root), 4, shifted={"objectnet": "objectnet"}, class_maps={"objectnet": "map.txt"}, **SMALL)
    source = data.ood_test_sets()["objectnet"]
    assert source.label.tolist() == [3, 1]
    assert reds(data, source) == [0, 10]
    assert source.classes.tolist() == [1, 3]
