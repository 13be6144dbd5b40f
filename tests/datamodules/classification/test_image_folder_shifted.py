from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.shifted_accuracy import ShiftedAccuracy
from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.folder_sets import ImageFolder
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading import Loading
from tests.datamodules.classification.shifted import SMALL, Known, paint, reds
from tests.trainers import quiet

CLASSES = ("cat", "dog", "emu")


def shifted_folders(tmp_path: Path) -> Path:
    """Red is 100 * class, but in `photos`, that of the next class; `sketches` has no cats, and a dog in a cat's red."""
    for label, name in enumerate(CLASSES):
        for split in ("train", "test"):
            paint(tmp_path / "own" / split / name / "a.png", 100 * label)
        paint(tmp_path / "own" / "photos" / name / "a.png", 100 * ((label + 1) % 3))
    for name, reds_of in {"dog": (0, 100), "emu": (200, 100, 200)}.items():
        for number, red in enumerate(reds_of):
            paint(tmp_path / "sketches" / name / f"{number}.png", red)
    return tmp_path


own_folders = pytest.fixture(shifted_folders)


def own(root: Path, **sets: str) -> Any:
    return ImageFolder(str(root / "own"), shifted=sets, **SMALL)


def test_folders_of_classes_are_shifted_sets_with_the_labels_of_the_training_images(own_folders: Path) -> None:
    data = own(own_folders, photos="photos", sketches=str(own_folders / "sketches"))
    shifted = data.ood_test_sets()
    assert list(shifted) == ["photos", "sketches"]
    assert (reds(data, shifted["photos"]), shifted["photos"].label.tolist()) == ([100, 200, 0], [0, 1, 2])
    assert shifted["photos"].classes is None
    assert shifted["sketches"].label.tolist() == [1, 1, 2, 2, 2]
    assert shifted["sketches"].classes.tolist() == [1, 2]


@pytest.mark.parametrize("through_a_cache", [False, True])
def test_a_users_shifted_sets_are_tested_on_after_training(own_folders: Path, through_a_cache: bool) -> None:
    images = own(own_folders, photos="photos", sketches="../sketches")
    if through_a_cache:
        images = CachedFeatures(images, torch.nn.Flatten(), 768, cache_dir=str(own_folders / "cache"), num_workers=0)
    data = LabelledImages(images, 2, loading=Loading(num_workers=0))
    module, trainer = ByRed(), quiet(max_epochs=1, callbacks=[ShiftedAccuracy()])
    trainer.fit(module, datamodule=data)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    assert metrics["test/accuracy"] == 1
    assert metrics["test/accuracy_photos"] == 0
    assert metrics["test/accuracy_sketches"] == pytest.approx(4 / 5)  # the cat-coloured dog counts as a dog
    assert metrics["test/ood_accuracy"] == pytest.approx(2 / 5)


class ByRed(Known):
    """Classifies images, or their flattened pixels, by the red value, which increases by 100 per class."""

    def forward(self, image: Tensor) -> Tensor:
        red = 255 * image.flatten(1)[:, :1]
        return -(red - torch.tensor([0.0, 100.0, 200.0])).abs() + 0 * self.nothing

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self(batch["image"]).sum()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("test/accuracy", (self(batch["image"]).argmax(dim=1) == batch["label"]).double().mean())
