from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from callbacks.predictions import WritePredictions
from datamodules.classification.clustered import Clustered
from datamodules.classification.digits import Digits
from datamodules.classification.image_folder import ImageFolder
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.new_images import NewImages
from lightning_modules.baselines import CrossEntropy
from lightning_modules.networks.convnet import ConvNet
from tests.datamodules.image_folders import photograph, save, shades
from tests.trainers import quiet


def test_a_folder_is_predicted_with_the_files_names_and_the_classes_that_folders_tell(tmp_path: Path) -> None:
    shades(tmp_path / "own", "train", ["cat", "dog"])
    for name in ("a.png", "b.jpg", "dog/c.png", "cow/d.png"):
        save(tmp_path / "new" / name, photograph(50, 40))
    images = ImageFolder(str(tmp_path / "own"), image_size=16, resize=16)
    data = LabelledImages(images, batch_size=3, predict_dir=str(tmp_path / "new"))
    trainer = quiet(default_root_dir=tmp_path, callbacks=[WritePredictions()])
    module = CrossEntropy(ConvNet(3, [4], 2).eval(), 2)
    trainer.predict(module, data, return_predictions=False)  # without a test set
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert table["name"].tolist() == ["a.png", "b.jpg", "cow/d.png", "dog/c.png"]
    assert table["label"].isna().tolist() == [True, True, True, False]
    assert table["label"].iloc[3] == 1
    fetched = NewImages(str(tmp_path / "new"), images).fetch(torch.arange(4), None) / 255
    expected = module(fetched).softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(table.filter(like="probability_"), expected, rtol=0, atol=1e-5)


def test_test_images_are_predicted_with_their_labels(tmp_path: Path) -> None:
    trainer = quiet(default_root_dir=tmp_path, callbacks=[WritePredictions("csv")])
    data = LabelledImages(Digits(), batch_size=100)
    trainer.predict(CrossEntropy(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), 10), data)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table["label"].tolist() == Digits().test().label.tolist()
    assert "name" not in table


def test_grey_is_that_of_pillow(tmp_path: Path) -> None:
    image = photograph(8, 8)
    save(tmp_path / "new" / "a.png", image)
    fetched = NewImages(str(tmp_path / "new"), Digits()).fetch(torch.tensor([0]), None)
    assert list(fetched.shape) == [1, 1, 8, 8]
    np.testing.assert_allclose(fetched[0, 0].int(), np.asarray(image.convert("L")).astype(int), atol=1)


@pytest.mark.parametrize(
    ("folder", "images", "error", "message"),
    [
        ("nowhere", Digits(), FileNotFoundError, "predict_dir: .*nowhere is no folder"),
        ("empty", Digits(), FileNotFoundError, "empty holds no image; expected files that end with .avif"),
        (
            "one",
            Clustered(),
            ValueError,
            "predict_dir gives square images in grey or colour, and those of Clustered",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    tmp_path: Path, folder: str, images: Any, error: type[Exception], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "one" / "a.png", Image.new("RGB", (8, 8)))
    with pytest.raises(error, match=message):
        NewImages(str(tmp_path / folder), images)
