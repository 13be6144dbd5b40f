"""A user's folders with the settings in configs/own_data: image sizes, and splits if folders for them are missing."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from datamodules.classification.clothing1m import Clothing1M
from datamodules.classification.folder_sets import ImageFolder, UnlabelledFolder
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.webvision import WebVision
from datamodules.corruptions.label_noise import FromCSV, Symmetric
from datamodules.files.image_files import Crop
from experiments.config_files import settings_of
from tests.conformance.experiments import CONFIGS
from tests.datamodules.classification.patterns import on_process
from tests.datamodules.image_folders import shades
from tests.grouped import grouped

CLASSES = ["cat", "dog", "emu"]


def own(root: Path, stage: str = "fit", rank: int = 0, world_size: int = 1, **options: Any) -> LabelledImages:
    settings = settings_of(CONFIGS / "own_data" / "classes.yaml")
    shares = {key: settings[f"data.split.{key}"] for key in ("validation_fraction", "test_fraction")}
    options = grouped(LabelledImages, {"seed": 3, "num_workers": 0, **shares, **options})
    data = LabelledImages(ImageFolder(str(root), image_size=8), **options)
    data.trainer = on_process(rank, world_size, root / "run")  # type: ignore[assignment]
    data.setup(stage)
    return data


def names(one: Any) -> set[str]:
    return set() if one is None else {one.source.names[row] for row in one.row.tolist()}


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (64, 73), (32, 37), (448, 512)])
def test_evaluation_shows_as_much_of_an_image_at_every_size(tmp_path: Path, size: int, resize: int) -> None:
    """The centre crop covers 7/8 of the resized side; in earlier versions, 64-pixel crops covered only a quarter."""
    shades(tmp_path, "train", CLASSES, per_class=1)
    sets = [ImageFolder(str(tmp_path), size), UnlabelledFolder(str(tmp_path), size), Clothing1M(image_size=size)]
    for images in sets:
        assert images.crop.resize == resize
        box = images.crop.box(1000, 1000, None)
        assert box.right - box.left == pytest.approx(1000 * size / resize)
    assert ImageFolder(str(tmp_path), size, resize=size).crop.resize == size
    assert WebVision(image_size=227).crop.resize == 256
    assert Crop(size, None).resize == resize


def test_a_fifth_tests_and_a_tenth_of_the_rest_validates_where_no_folder_does(tmp_path: Path) -> None:
    shades(tmp_path, "train", CLASSES, per_class=50)
    data, testing = own(tmp_path), own(tmp_path, "test")
    parts = names(data.train_set), names(data.validation_set), names(testing.test_set)
    assert [len(part) for part in parts] == [108, 12, 30]
    assert len(set.union(*parts)) == 150  # they are disjoint
    for part in parts:
        assert {sum(name.startswith(each) for name in part) for each in CLASSES} == {len(part) // 3}
    assert names(own(tmp_path, "test", seed=4).test_set) != parts[2]
    for rank in (0, 1):  # the split depends only on seed and labels, on any process and in a second call
        again = own(tmp_path, "fit", rank, 2)
        assert (names(again.train_set), names(again.validation_set)) == parts[:2]
        assert names(own(tmp_path, "test", rank, 2).test_set) == parts[2]
    folds = [own(tmp_path, folds=4, fold=fold) for fold in range(4)]
    assert set.union(*(names(one.validation_set) for one in folds)) == parts[0] | parts[1]
    for one in folds:
        assert not names(one.train_set) & (names(one.validation_set) | parts[2])
    tested = [names(own(tmp_path, "test", folds=4, fold=fold, test_fraction=0).test_set) for fold in range(4)]
    assert (set.union(*tested), sum(map(len, tested))) == (set.union(*parts), 150)  # each fold is tested, none twice


def test_folders_of_validation_and_test_images_come_first(tmp_path: Path) -> None:
    shades(tmp_path, "train", CLASSES, per_class=10)
    shades(tmp_path, "val", CLASSES, per_class=2)
    data, testing = own(tmp_path), own(tmp_path, "test")  # val/ is the test set if there is no test/
    assert [len(names(one)) for one in (data.train_set, data.validation_set, testing.test_set)] == [27, 3, 6]
    shades(tmp_path, "test", CLASSES, per_class=4)
    data, testing = own(tmp_path), own(tmp_path, "test")
    assert [len(names(one)) for one in (data.train_set, data.validation_set, testing.test_set)] == [30, 6, 12]


def test_the_share_is_told_in_one_line_and_tested_by_true_labels_where_they_are_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shades(tmp_path, "train", CLASSES, per_class=10)
    with caplog.at_level("INFO"):
        own(tmp_path, label_noise=Symmetric(0.5))
    [line] = [record.message for record in caplog.records if "no test images" in record.message]
    assert "6 of the 30 training images" in line
    assert "data.split.test_fraction 0.2" in line
    tested = own(tmp_path, "test", label_noise=Symmetric(0.5)).test_set
    true = [CLASSES.index(tested.source.names[row].split("/")[0]) for row in tested.row.tolist()]  # type: ignore[index]
    assert tested.label.tolist() == true
    split = pd.read_csv(tmp_path / "run" / "labels.csv")["split"]
    assert split.value_counts().to_dict() == {"training": 21, "test": 6, "validation": 3}
    assert set(split.index[split == "test"]) == set(tested.row.tolist())


def test_a_table_of_labels_covers_the_share_too(tmp_path: Path) -> None:
    shades(tmp_path, "train", CLASSES, per_class=10)
    rows = [f"{name}/{number}.png,{(place + 1) % 3}" for place, name in enumerate(CLASSES) for number in range(10)]
    (tmp_path / "labels.csv").write_text("\n".join(["name,label", *rows]) + "\n")
    noise = FromCSV(str(tmp_path / "labels.csv"), classes="number")
    tested = own(tmp_path, "test", label_noise=noise).test_set
    folder = [CLASSES.index(tested.source.names[row].split("/")[0]) for row in tested.row.tolist()]  # type: ignore[index]
    assert tested.label.tolist() == [(one + 1) % 3 for one in folder]


def test_without_a_share_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    shades(tmp_path, "train", CLASSES, per_class=10)
    with pytest.raises(
        FileNotFoundError, match=r"set data.split.test_fraction, for example to 0.2, to hold out a part of train"
    ):
        own(tmp_path, "test", test_fraction=0.0)
    assert own(tmp_path, test_fraction=0.0).num_train_samples == 27
