from pathlib import Path

import pytest
import torch

from datamodules.classification.imagenet import ImageNet
from tests.datamodules.classification.patterns import loaded
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
