"""The share of false labels that a network reproduces, for a network with known predictions."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.labels import Memorization
from tests.trainers import quiet

# prediction, given label, true label; the last two labels are not false
ROWS = [(1, 1, 0), (0, 1, 0), (2, 1, 0), (2, 2, 1), (0, 2, 1), (1, 1, 1), (0, 2, 2)]


class Known(LightningModule):
    """Predicts the class that the only pixel of an image contains."""

    num_classes = 3

    def forward(self, image: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert image.dtype == self.dtype
        return torch.nn.functional.one_hot(image[:, 0, 0, 0].long(), 3).to(image.dtype)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...


class Rows(LightningDataModule):
    def __init__(self, rows: list[tuple[int, int, int]], keys: tuple[str, ...]) -> None:
        super().__init__()
        self.rows, self.keys = rows, ("prediction", *keys)

    def test_dataloader(self) -> DataLoader:
        return DataLoader([{"image": torch.zeros(1, 1, 1)}])  # type: ignore[arg-type]

    def training_images_dataloader(self) -> DataLoader:
        rows = [dict(zip(self.keys, row, strict=False)) for row in self.rows]
        items = [{"image": torch.full((1, 1, 1), float(row.pop("prediction"))), **row} for row in rows]
        return DataLoader(items, batch_size=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "keys", "options", "expected"),
    [
        # two of five false labels are reproduced (rows 0 and 3), and one image is assigned its true class (row 1)
        (ROWS, ("label", "clean_label"), {}, (2 / 5, 1 / 5)),
        (ROWS, ("label", "clean_label"), {"precision": "64-true"}, (2 / 5, 1 / 5)),
        (ROWS, ("label", "clean_label"), {"fast_dev_run": 1}, (1 / 3, 1 / 3)),
        ([(*row, row[2]) for row in ROWS], ("original_label", "clean_label", "label"), {}, (2 / 5, 1 / 5)),
        ([*ROWS, (1, 1, -2), (1, 1, -1)], ("label", "clean_label"), {}, (3 / 6, 1 / 6)),
        (ROWS[5:], ("label", "clean_label"), {}, (0, 0)),
        (ROWS, ("label",), {}, None),
    ],
    ids=["all", "double", "fast_dev_run", "corrected", "unverified and of no class", "nothing false", "truth unknown"],
)
def test_shares_are_of_the_false_labels_alone(rows: Any, keys: Any, options: Any, expected: Any) -> None:
    [metrics] = quiet(callbacks=[Memorization()], **options).test(
        Known(), datamodule=Rows(rows, keys), verbose=False
    ) or [{}]
    names = ("test/memorized", "test/recovered")
    assert metrics == ({} if expected is None else pytest.approx(dict(zip(names, expected, strict=True))))
