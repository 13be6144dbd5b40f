"""The errors of callbacks and modules if something that they need is missing in the data."""

from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import Tensor

from callbacks.image_grid import ImageGrid
from callbacks.labels.memorization import Memorization
from callbacks.labels.report import LabelReport
from tests.noisy_labels.lsa.small import PLAIN, one_network
from tests.trainers import standing


class Network(LightningModule):
    num_classes = 10

    def forward(self, image: Tensor) -> Tensor:
        return image

    def image_columns(self, batch: Any, outputs: Any) -> dict[str, Tensor]:
        return {}


def set_up(callback: Callback, stage: str) -> Callable[[Any], None]:
    return lambda trainer: callback.setup(trainer, Network(), stage)


def set_up_lsa(trainer: Any) -> None:
    module = one_network(**PLAIN)
    module.trainer = trainer
    module.setup("fit")


@pytest.mark.parametrize("data", [None, LightningDataModule()], ids=["none", "plain"])
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("LabelReport", set_up(LabelReport(), "test")),
        ("Memorization", set_up(Memorization(), "test")),
        ("ImageGrid", set_up(ImageGrid(stage="train"), "fit")),
        ("PLSLSA", set_up_lsa),
    ],
)
def test_data_without_training_images_to_look_at_are_refused(
    name: str, check: Callable[[Any], None], data: LightningDataModule | None
) -> None:
    found = "a run without a DataModule" if data is None else "LightningDataModule"
    message = f"{name} needs a TrainingImageSource, and {found} lacks training_images_dataloader"
    with pytest.raises(TypeError, match=message):
        check(standing(datamodule=data))
