from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn

from callbacks.pseudo_label_figure import PseudoLabelFigure, draw_pseudo_labels
from datamodules.segmentation.ellipse_images import EllipseImages


class Segments(LightningModule):
    """Trains nothing, and keeps every other label."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Conv2d(1, 2, 1)
        self.kept = torch.arange(12) % 2 == 0

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        return self(batch["image"]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_picture_is_drawn_when_training_ends(tmp_path: Path) -> None:
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=CSVLogger(tmp_path, name="", version=""),
        callbacks=[PseudoLabelFigure(num_images=3)],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Segments(), datamodule=EllipseImages(4, num_training=12, num_validation=0))
    with Image.open(tmp_path / "figures" / "pseudo_labels.png") as picture:
        assert picture.width > picture.height
        assert np.asarray(picture.convert("L")).std() > 10


def test_pictures_show_what_they_are_given(tmp_path: Path) -> None:
    """Two pictures that differ in one label, or in whether it is kept, differ."""
    mask = np.zeros((2, 8, 8), dtype=np.int64)
    mask[:, 2:5] = 1
    columns = {"image": np.random.default_rng(0).random((2, 3, 8, 8)), "pseudo label": mask}
    pictures = []
    for number, (label, kept) in enumerate(((mask, [True, True]), (1 - mask, [True, True]), (mask, [True, False]))):
        draw_pseudo_labels(columns | {"pseudo label": label}, kept, tmp_path / f"{number}.png")
        pictures.append((tmp_path / f"{number}.png").read_bytes())
    assert len(set(pictures)) == 3


def test_what_it_cannot_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        PseudoLabelFigure(0)
