from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from callbacks.image_quality import TopOneAccuracy
from datamodules.distributed.collectives import rank
from lightning_modules.metrics.image_quality import ImageQuality
from tests.trainers import quiet
from tests.two_processes import in_two_processes


class Restored(LightningModule):
    """Returns the estimates in its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.quality = ImageQuality()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"estimate": batch["given"]}


class Brightest(nn.Module):
    """A classifier that predicts the index of the brightest pixel."""

    def forward(self, image: Tensor) -> Tensor:
        assert image.min() >= 0
        assert image.max() <= 1
        return image.flatten(1)


def pictures(*bright: int) -> Tensor:
    """Return 2 x 2 images, in each of which one pixel is brighter than white."""
    return 1.5 * nn.functional.one_hot(torch.tensor(bright), 4).float().view(-1, 1, 2, 2)


def shares() -> list[dict[str, Any]]:
    """Return two batches: one of two images, and one of a single image. Two processes get one batch each."""
    return [
        {"name": ["x/a", "x/b"], "given": pictures(0, 2), "noisy": pictures(3, 3), "clean": pictures(0, 1)},
        {"name": ["x/c"], "given": pictures(3), "noisy": pictures(2), "clean": pictures(2)},
    ]


def accuracies_of_a_share(labels: str) -> dict[str, float]:
    """Test on one of the two batches in each process."""
    trainer = quiet(callbacks=[TopOneAccuracy(Brightest(), labels)], devices=2, strategy="ddp")
    trainer.strategy.setup_environment()
    loader = torch.utils.data.DataLoader([shares()[rank()]], batch_size=None)
    trainer.test(Restored(), loader, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.nightly
def test_two_processes_with_uneven_shares_give_the_accuracies_of_one(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("x/a.JPEG 0\nx/b.JPEG 1\nx/c.JPEG 3\n")
    expected = pytest.approx({"test/accuracy": 2 / 3, "test/noisy_accuracy": 0.0, "test/clean_accuracy": 2 / 3})
    assert in_two_processes(accuracies_of_a_share, str(tmp_path / "labels.txt")) == [expected, expected]


def test_accuracies_are_those_of_restored_degraded_and_clean_images(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("x/a.JPEG 0\nx/b.JPEG 1\n\nx/c.JPEG 3\n")
    callback = TopOneAccuracy(Brightest(), str(tmp_path / "labels.txt"))
    batches = shares()
    trainer = quiet(callbacks=[callback])
    for _ in range(2):  # a second test starts at zero
        trainer.test(Restored(), torch.utils.data.DataLoader(batches, batch_size=None), verbose=False)
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        expected = {"test/accuracy": 2 / 3, "test/noisy_accuracy": 0.0, "test/clean_accuracy": 2 / 3}
        assert found == pytest.approx(expected)
    batches[1]["name"] = ["x/d"]
    with pytest.raises(ValueError, match="labels has no class for the test image x/d"):
        trainer.test(Restored(), torch.utils.data.DataLoader(batches, batch_size=None), verbose=False)
    (tmp_path / "labels.txt").write_text("a.JPEG\n")
    with pytest.raises(
        ValueError, match=r"labels.txt: each line must be an image name and a class number, got 'a.JPEG'"
    ):
        TopOneAccuracy(Brightest(), str(tmp_path / "labels.txt"))
    with pytest.raises(FileNotFoundError, match=r"absent.txt does not exist"):
        TopOneAccuracy(Brightest(), str(tmp_path / "absent.txt"))
