from pathlib import Path

import pytest
import torch

from datamodules.classification.unlabelled_folder import UnlabelledFolder
from tests.datamodules.image_folders import shades


def test_all_images_below_the_folder_are_of_one_class(tmp_path: Path) -> None:
    shades(tmp_path, "any", ["a", "b"], per_class=2)
    source = UnlabelledFolder(str(tmp_path), image_size=16, resize=16).training()
    assert source.names == ["any/a/0.png", "any/a/1.png", "any/b/0.png", "any/b/1.png"]
    assert source.label.tolist() == [0, 0, 0, 0]
    assert source.fetch(torch.arange(4), None)[:, 0, 0, 0].tolist() == [0, 0, 10, 10]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_dir: .* holds no image"):
        UnlabelledFolder(str(tmp_path))
