from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from callbacks.shifted_accuracy import ShiftedAccuracy
from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.image_sets import ImageSet, ImagesInMemory, ImageSource
from datamodules.classification.labelled_images import LabelledImages
from tests.datamodules.classification.shifted import Known, Unused
from tests.trainers import quiet


class Pixels(ImageSet):
    """Two sets, of 7 and 5 images, with 3 and 4 correct predictions; the second set has only the classes 1 and 3."""

    num_classes = 4
    image_shape = (1, 2, 2)

    def training(self) -> ImagesInMemory:
        return self.test()

    def test(self) -> ImagesInMemory:
        return ImagesInMemory(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64))

    def ood_test_sets(self) -> dict[str, ImageSource]:
        first = ImagesInMemory(self.pixels([2, 2, 2, 0, 0, 0, 0]), torch.full((7,), 2))
        # Pixel 0 is always 200: without the restriction, every prediction would be 0.
        image = self.pixels([1, 3, 1, 1, 3])
        image[:, 0, 0, 0] = 200
        second = ImagesInMemory(image, torch.tensor([1, 3, 1, 3, 3]))
        second.classes = torch.tensor([1, 3])
        return {"first": first, "second": second}

    @staticmethod
    def pixels(data_range: list[int]) -> Tensor:
        return (100 * torch.nn.functional.one_hot(torch.tensor(data_range), 4)).to(torch.uint8).view(-1, 1, 2, 2)


@pytest.mark.parametrize("processes", [1, 2])
def test_accuracy_counts_every_image_once_and_predicts_among_the_classes_of_a_set(
    processes: int, tmp_path: Path
) -> None:
    strategy = "ddp_fork" if processes > 1 else "auto"
    trainer = quiet(devices=processes, strategy=strategy, callbacks=[ShiftedAccuracy()], default_root_dir=tmp_path)
    (metrics,) = trainer.test(Known(), datamodule=LabelledImages(Pixels(), batch_size=3), verbose=False)
    assert metrics["test/accuracy_first"] == pytest.approx(3 / 7)
    assert metrics["test/accuracy_second"] == pytest.approx(4 / 5)
    assert metrics["test/ood_accuracy"] == pytest.approx((3 / 7 + 4 / 5) / 2)


def test_cached_features_hand_on_shifted_sets_and_their_classes(tmp_path: Path) -> None:
    images = CachedFeatures(Pixels(), torch.nn.Flatten(), num_features=4, cache_dir=str(tmp_path))
    data = LabelledImages(images, batch_size=3)
    trainer = quiet(callbacks=[ShiftedAccuracy()])
    (metrics,) = trainer.test(Known(), datamodule=data, verbose=False)
    assert metrics["test/accuracy_first"] == pytest.approx(3 / 7)
    assert metrics["test/accuracy_second"] == pytest.approx(4 / 5)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_datamodule_without_shifted_sets_is_refused(stage: str) -> None:
    lacks = "LightningDataModule lacks check_shifted_tests, shifted_test_loaders"
    with pytest.raises(TypeError, match=f"ShiftedAccuracy needs a ShiftedTestSets, and {lacks}"):
        getattr(quiet(callbacks=[ShiftedAccuracy()]), stage)(Unused(), datamodule=LightningDataModule())
