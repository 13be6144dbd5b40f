from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn

from callbacks.image_grid import ImageGrid
from datamodules.loading import Loading
from datamodules.segmentation.ellipse_images import EllipseImages
from datamodules.segmentation.unpaired_masks import UnpairedMasks
from lightning_modules.tasks.segmenter import SegmenterSteps, confusion
from tests.trainers import quiet


class Segments(SegmenterSteps, LightningModule):
    """Trains nothing, and reports that early learning of category 1 ended in epoch 1."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 2
        self.metrics = confusion(2)
        self.network = nn.Conv2d(1, 2, 1)
        self.frozen = nn.Dropout(0.5).eval()
        self.seen: list[dict[str, Any]] = []

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def image_columns(self, batch: dict[str, Tensor], outputs: Any) -> Any:
        columns = super().image_columns(batch, outputs)
        modes = {module.training for module in self.modules()}
        self.seen.append({**columns, "outputs": outputs, "modes": modes, "gradient": torch.is_grad_enabled(), **batch})
        return columns

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        return self(batch["image"]).float().sum()

    def on_train_epoch_end(self) -> None:
        if self.current_epoch == 1:
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, ImageGrid):
                    callback.on_early_learning_end(self.trainer, self, [1])

    def test_step(self, batch: dict, batch_idx: int) -> str:
        return f"step {batch_idx}"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer_in(directory: Path, *callbacks: ImageGrid, **options: Any) -> Trainer:
    logger = CSVLogger(directory, name="", version="")
    return quiet(**{"max_epochs": 2, "logger": logger, "callbacks": list(callbacks), **options})


def ellipses() -> UnpairedMasks:
    return UnpairedMasks(EllipseImages(num_training=12, num_validation=4), batch_size=4, loading=Loading(num_workers=0))


def test_training_images_are_drawn_when_early_learning_and_when_training_ends(tmp_path: Path) -> None:
    module = Segments()
    trainer_in(tmp_path, ImageGrid("labels", "train", 3), precision="bf16-mixed").fit(module, datamodule=ellipses())
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures == ["labels.png", "labels_epoch_001.png"]
    with Image.open(tmp_path / "figures" / "labels.png") as picture:
        assert min(picture.size) > 300
        assert np.asarray(picture.convert("L")).std() > 10
    for seen in module.seen:
        assert seen["index"].tolist() == [0, 5, 11]
        assert (seen["modes"], seen["gradient"], seen["outputs"]) == ({False}, False, None)
    assert module.network.training
    assert not module.frozen.training


@pytest.mark.parametrize(("stage", "outputs"), [("test", ["step 0", "step 1"]), ("val", [None, None])])
def test_the_first_images_are_drawn_of_as_many_batches_as_that_takes(tmp_path: Path, stage: Any, outputs: Any) -> None:
    module, data = (
        Segments(),
        UnpairedMasks(EllipseImages(num_training=12, num_validation=12), batch_size=4, loading=Loading(num_workers=0)),
    )
    trainer = trainer_in(tmp_path, ImageGrid("pictures", stage, num_images=6))
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["pictures.png"]
    assert [seen["outputs"] for seen in module.seen] == outputs * (2 if stage == "val" else 1)
    assert [seen["index"].tolist() for seen in module.seen[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with Image.open(tmp_path / "figures" / "pictures.png") as picture:
        assert picture.height > 1.2 * picture.width  # six rows of four columns


def test_without_a_logger_nothing_is_drawn(tmp_path: Path) -> None:
    module = Segments()
    trainer_in(tmp_path, ImageGrid(stage="train"), logger=False).fit(module, datamodule=ellipses())
    assert module.seen == list(tmp_path.iterdir()) == []


def test_a_segmenter_shows_its_images_labels_and_predictions() -> None:
    module, image = Segments(), torch.rand(2, 1, 4, 4) * 5 - 9
    given, label, true = torch.randint(2, (3, 2, 4, 4))
    columns = module.image_columns({"image": image, "original_label": given, "label": label, "clean_label": true}, None)
    assert list(columns) == ["image", "true label", "given label", "corrected label", "prediction"]
    low, high = image.flatten(1).aminmax(dim=1)
    torch.testing.assert_close(columns["image"], (image - low.view(-1, 1, 1, 1)) / (high - low).view(-1, 1, 1, 1))
    for name, mask in {"true label": true, "given label": given, "corrected label": label}.items():
        assert columns[name] is mask
    assert torch.equal(columns["prediction"], module(image).argmax(dim=1))
    assert list(module.image_columns({"image": image, "label": label}, None)) == ["image", "label", "prediction"]


def test_what_it_cannot_draw_is_refused() -> None:
    trainer: Any = SimpleNamespace(datamodule=None)
    with pytest.raises(TypeError, match="ImageGrid needs a PictureSource, and LightningModule lacks image_columns"):
        ImageGrid().setup(trainer, LightningModule(), "test")
