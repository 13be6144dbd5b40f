"""The share of false labels that a network gives back, against a network whose answers are known."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.labels.memorization import Memorization

# prediction, given label, true label; the last two labels are not false
ROWS = [(1, 1, 0), (0, 1, 0), (2, 1, 0), (2, 2, 1), (0, 2, 1), (1, 1, 1), (0, 2, 2)]


class Known(LightningModule):
    """Answers what is written in the only pixel of an image."""

    num_classes = 3

    def forward(self, image: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(image[:, 0, 0, 0].long(), 3).float()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...


class Rows(LightningDataModule):
    def __init__(self, rows: list[tuple[int, int, int]], with_truth: bool) -> None:
        super().__init__()
        self.rows, self.with_truth = rows, with_truth

    def test_dataloader(self) -> DataLoader:
        return DataLoader([{"image": torch.zeros(1, 1, 1)}])

    def training_images_dataloader(self) -> DataLoader:
        items: list[dict[str, Any]] = [
            {"image": torch.full((1, 1, 1), float(prediction)), "label": given}
            | ({"clean_label": true} if self.with_truth else {})
            for prediction, given, true in self.rows
        ]
        return DataLoader(items, batch_size=3)  # type: ignore[arg-type]


def quiet_trainer() -> Trainer:
    return Trainer(
        logger=False, callbacks=[Memorization()], accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


def metrics_of(rows: list[tuple[int, int, int]], with_truth: bool = True) -> dict[str, float]:
    [metrics] = quiet_trainer().test(Known(), datamodule=Rows(rows, with_truth), verbose=False) or [{}]
    return dict(metrics)


def test_shares_are_of_the_false_labels_alone() -> None:
    # of five false labels two are given back (rows 0 and 3), and one image is given its true class (row 1)
    assert metrics_of(ROWS) == pytest.approx({"test/memorized": 2 / 5, "test/recovered": 1 / 5})


def test_corrected_labels_count_as_they_were_given() -> None:
    class Corrected(Rows):
        def training_images_dataloader(self) -> DataLoader:
            rows: Any = super().training_images_dataloader().dataset
            items = [row | {"original_label": row["label"], "label": row["clean_label"]} for row in rows]
            return DataLoader(items, batch_size=3)  # type: ignore[arg-type]

    [metrics] = quiet_trainer().test(Known(), datamodule=Corrected(ROWS, with_truth=True), verbose=False)
    assert metrics == pytest.approx({"test/memorized": 2 / 5, "test/recovered": 1 / 5})


def test_without_false_labels_nothing_is_memorised() -> None:
    assert metrics_of(ROWS[5:]) == {"test/memorized": 0.0, "test/recovered": 0.0}


def test_where_the_truth_is_unknown_nothing_is_said() -> None:
    assert metrics_of(ROWS, with_truth=False) == {}
