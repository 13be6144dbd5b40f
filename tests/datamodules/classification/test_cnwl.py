from pathlib import Path

import pytest
import torch

from datamodules.classification.cnwl import CNWL
from datamodules.classification.labelled_images import LabelledImages
from tests.datamodules.image_folders import grey


def test_cnwl_reads_its_splits_and_knows_which_images_are_from_the_web(tmp_path: Path) -> None:
    names = ["n01.jpg", "9f2a.jpg", "n02.jpg"]
    for number, name in enumerate(names):
        grey(tmp_path / "all_images_resampled_84" / name, 40 * number, size=84)
    grey(tmp_path / "validation" / "5" / "v.png", 200)
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "red_noise_nl_0.2").write_text("".join(f"{n} {k}\n" for k, n in enumerate(names)))
    (tmp_path / "split" / "validation").write_text("v.png 5\n")
    images = CNWL(str(tmp_path), noise_rate="0.2")
    data = LabelledImages(images, batch_size=2)
    data.setup("fit")
    assert data.train_set.clean_label.tolist() == [0, -1, 2]
    assert data.train_set.label.tolist() == [0, 1, 2]
    assert data.train_set.source.fetch(torch.arange(3), None).shape == (3, 3, 32, 32)
    test = images.test()
    assert (test.label.tolist(), test.fetch(torch.tensor([0]), None).unique().tolist()) == ([5], [200])
    with pytest.raises(FileNotFoundError, match=r"red_noise_nl_0\.8 does not exist"):
        CNWL(str(tmp_path), noise_rate="0.8").training()
