from pathlib import Path

import pytest
import torch

from datamodules.classification.web_fg import WebFG
from tests.datamodules.image_folders import grey


@pytest.mark.parametrize("inside", [True, False])
def test_web_fg_reads_lists_of_files_and_labels(inside: bool, tmp_path: Path) -> None:
    root = tmp_path / "web-car" if inside else tmp_path
    for split, labels in (("train", [0, 195, 7]), ("val", [3, 4])):
        for number in range(len(labels)):
            grey(root / split / f"a:b {number}.png", 10 * number)
        lines = [f"{split}/a:b {number}.png:{label}" for number, label in enumerate(labels)]
        (root / f"{split}-list.txt").write_text("\n".join(lines) + "\n")
    data = WebFG(str(tmp_path), subject="car", image_size=8, resize=8)
    train, test = data.training(), data.test()
    assert train.label.tolist() == [0, 195, 7]
    assert test.label.tolist() == data.validation().label.tolist() == [3, 4]
    assert train.fetch(torch.tensor([2]), None).unique().tolist() == [20]
    (root / "val-list.txt").write_text("val/0.png 3\n")
    with pytest.raises(ValueError, match="line 1: expected <file>:<label>"):
        data.test()
    (root / "val-list.txt").write_text("val/none.png:3\n")
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist"):
        data.test()
    with pytest.raises(FileNotFoundError, match="web-bird"):
        WebFG(str(root / "val"), subject="bird").training()
