"""Folders with a given number of classes are read like any other, and have this number even if they do not exist."""

from pathlib import Path

import pytest

from datamodules.classification.folder_sets import ClassFolders
from tests.datamodules.image_folders import photograph, save


def folder(root: Path) -> str:
    """Write one training and one validation image for each of two classes."""
    for split in ("train", "val"):
        for name in ("ct", "mr"):
            save(root / "scans" / split / name / "a.png", photograph(40, 30))
    return str(root)


def test_the_number_of_classes_is_known_before_the_files_and_checked_with_them(tmp_path: Path) -> None:
    images = ClassFolders("scans", 2, folder(tmp_path), image_size=16, resize=20)
    assert images.image_shape == (3, 16, 16)
    assert len(images.training().label) == len(images.test().label) == 2
    assert images.class_names == ["ct", "mr"]
    assert images.validation() is None  # `val` is the test set if there is no `test`
    with pytest.raises(ValueError, match=r"num_classes must be 2, the number of classes in .*scans, got 3"):
        ClassFolders("scans", 3, str(tmp_path)).training()
    with pytest.raises(FileNotFoundError, match="absent"):
        ClassFolders("absent", 2, str(tmp_path)).training()
