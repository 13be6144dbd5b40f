from pathlib import Path

import pytest

from datamodules.classification.imagenet import ImageNet, read_class_map
from tests.datamodules.classification.shifted import SMALL, paint, reds

WNIDS = ["n01", "n02", "n05", "n09"]


def imagenet(root: Path, **sets: list[str]) -> Path:
    """Write one image per folder of `train`, `val` and each shifted set; red is 10 times the place of the folder."""
    for split, folders in {"train": WNIDS, "val": WNIDS, **sets}.items():
        for number, folder in enumerate(folders):
            paint(root / split / folder / "a.png", 10 * number)
    return root


def test_folders_called_by_wnid_give_the_labels_of_imagenet_and_say_which_classes_there_are(tmp_path: Path) -> None:
    root = imagenet(tmp_path, r=["n02", "n09"], sketch=WNIDS, a=["n01", "n07"])
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
    root = imagenet(tmp_path, objectnet=["chair", "desk lamp", "spoon"])
    (root / "map.txt").write_text("n09 chair\nn02 desk lamp\n")
    assert read_class_map(root / "map.txt") == {"chair": "n09", "desk lamp": "n02"}
    data = ImageNet(str(root), 4, shifted={"objectnet": "objectnet"}, class_maps={"objectnet": "map.txt"}, **SMALL)
    source = data.ood_test_sets()["objectnet"]
    assert source.label.tolist() == [3, 1]
    assert reds(data, source) == [0, 10]
    assert source.classes.tolist() == [1, 3]
