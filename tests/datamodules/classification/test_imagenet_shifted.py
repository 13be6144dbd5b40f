from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.shifted_accuracy import ShiftedAccuracy
from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.imagenet import ImageNet, read_class_map
from datamodules.classification.labelled_images import LabelledImages
from tests.datamodules.classification.shifted import SMALL, Unused, paint, reds
from tests.trainers import quiet

WNIDS = ["n01", "n02", "n05", "n09"]


def imagenet(root: Path, **sets: list[str]) -> Path:
    """One image for each class in `val` and `train`, and in each set; red is 10 * folder."""
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
    assert (shifted["a"].label.tolist(), reds(data, shifted["a"])) == ([0], [0])  # n07 is none of the four


def test_numbered_folders_count_the_wnids_of_all_classes(tmp_path: Path) -> None:
    wnids = [f"n{number:08}" for number in range(1000)]
    (tmp_path / "classes.txt").write_text("\n".join(wnids))
    for name in ("7", "999", "12"):
        paint(tmp_path / "v2" / name / "a.png", 5)
    data = ImageNet(shifted={"v2": "v2"}, data_dir=str(tmp_path), classes=str(tmp_path / "classes.txt"), **SMALL)
    assert sorted(data.ood_test_sets()["v2"].label.tolist()) == [7, 12, 999]
    paint(tmp_path / "v2" / "1000" / "a.png", 5)
    with pytest.raises(ValueError, match="holds a folder 1000, and classes are numbered"):
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


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"shifted": {"own": "own"}}, ValueError, "holds a folder chair, which is no wnid; give the set a map"),
        ({"shifted": {"v2": "v2"}}, ValueError, "numbers its folders among 1,000 classes, and classes leaves 4"),
        ({"shifted": {"other": "other"}}, ValueError, "holds none of the 4 classes"),
        ({"shifted": {"x": "nowhere"}}, FileNotFoundError, "nowhere does not exist"),
        ({"shifted": {"x": "own"}, "class_maps": {"y": "m"}}, ValueError, "class_maps names y, and shifted has x"),
        (
            {"shifted": {"x": "own"}, "class_maps": {"x": "m"}},
            FileNotFoundError,
            r"class_maps: .*m does not exist",
        ),
        (
            {"shifted": {"x": "own"}, "class_maps": {"x": "two"}},
            ValueError,
            "line 2: expected a wnid and a folder",
        ),
    ],
)
def test_what_is_wrong_with_a_shifted_set_is_named(
    options: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    root = imagenet(tmp_path, own=["chair"], v2=["0"], other=["n07"])
    (root / "two").write_text("n01 chair\nn02 chair\n")
    with pytest.raises(error, match=said):
        ImageNet(data_dir=str(root), classes=4, **options, **SMALL).ood_test_sets()


@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shifted": {"r": "imagenet-rr"}}, "imagenet-rr does not exist"),
        ({"shifted": {"r": "r"}, "class_maps": {"r": "map.txt"}}, r"class_maps: .*map\.txt does not exist"),
        ({"shifted": {"own": "own"}}, "give the set a map"),
    ],
)
def test_what_is_wrong_with_a_shifted_set_is_told_before_the_first_step(
    stage: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    root = imagenet(tmp_path / "sets", r=["n02"], own=["chair"])
    data: Any = ImageNet(data_dir=str(root), classes=4, **options, **SMALL)
    through_a_cache = CachedFeatures(data, torch.nn.Flatten(), 768, cache_dir=str(tmp_path / "cache"))
    for each in (data, through_a_cache):
        with pytest.raises((FileNotFoundError, ValueError), match=said):
            getattr(quiet(callbacks=[ShiftedAccuracy()]), stage)(Unused(), datamodule=LabelledImages(each))
