from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.classification.webvision import WebVision
from tests.datamodules.classification.patterns import loaded
from tests.datamodules.image_folders import WNIDS, save, shades


def folder_of_webvision(tmp_path: Path) -> Path:
    root = tmp_path / "webvision"
    train = [(f"google/q{k:04d}/{i}.jpg", k) for k in range(4) for i in range(3)]
    val = [(f"val{i:06d}.jpg", i % 4) for i in range(8)]
    for key, label in train:
        save(root / key, Image.new("RGB", (12, 9), (20 * label, 0, 0)))
    for key, label in val:
        save(root / "val_images_256" / key, Image.new("RGB", (12, 9), (20 * label, 0, 0)))
    shades(root / "imagenet", "val", WNIDS, per_class=1)
    (root / "info").mkdir()
    (root / "info" / "train_filelist_google.txt").write_text("".join(f"{key} {label}\n" for key, label in train))
    (root / "info" / "val_filelist.txt").write_text("".join(f"{key} {label}\n" for key, label in val))
    return root


webvision = pytest.fixture(folder_of_webvision)


def test_webvision_keeps_the_first_classes(webvision: Path) -> None:
    data = loaded(WebVision, str(webvision), num_classes=3, batch_size=3, image_size=8, resize=8)
    assert (data.num_classes, data.image_shape) == (3, (3, 8, 8))
    data.setup("fit")
    data.setup("test")
    assert data.train_set.label.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert data.train_set.clean_label is None
    assert data.validation_set.label.tolist() == data.test_set.label.tolist() == [0, 1, 2, 0, 1, 2]
    images = data.validation_set.source.fetch(torch.arange(6), None)
    assert [round(red / 20) for red in images[:, 0, 0, 0].tolist()] == [0, 1, 2, 0, 1, 2]


def test_webvision_tests_on_the_same_classes_of_imagenet(webvision: Path) -> None:
    def classes(**options: Any) -> list[int]:
        data = loaded(WebVision, str(webvision), num_classes=3, test_on="imagenet", image_size=8, resize=8, **options)
        data.setup("test")
        assert data.test_set.label.tolist() == [0, 1, 2]
        return (data.test_set.source.fetch(torch.arange(3), None)[:, 0, 0, 0] / 10).int().tolist()

    assert classes() == classes(imagenet_dir=str(webvision / "imagenet")) == [0, 1, 2]
    (webvision / "info" / "synsets.txt").write_text("".join(f"{WNIDS[k]} a name, another\n" for k in (1, 0, 3, 2)))
    assert classes() == [1, 0, 3]
