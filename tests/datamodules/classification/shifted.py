from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor

from datamodules.classification.image_sets import ImageSource
from tests.datamodules.image_folders import save

SMALL: dict[str, Any] = {"image_size": 16, "resize": 20, "min_area": None}


def paint(path: Path, red: int) -> None:
    save(path, Image.new("RGB", (40, 32), (red, 0, 0)))


def reds(data: Any, source: ImageSource) -> list[int]:
    """Return the red values of all images, which identify the images."""
    image = source.fetch(torch.arange(len(source.label)), None)
    assert image.shape[1:] == (3, 16, 16)
    return image[:, 0, 8, 8].tolist()


class Known(LightningModule):
    """Classifies an image by its pixels: pixel k is the logit of class k."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1) + 0 * self.nothing

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...


class Unused(Known):
    """Raises an error if it is trained or tested."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pytest.fail("was trained")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pytest.fail("was tested")
