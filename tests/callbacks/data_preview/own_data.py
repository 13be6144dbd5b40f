"""A DataModule as a user may write it, which does not use any class of this project."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader


def pair(row: int) -> Any:
    return torch.full((1, 4, 4), row / 4), row % 2


def with_unknown_keys(row: int) -> Any:
    return {"scan": torch.full((9,), float(row)), "patient": f"<b>{row}</b>", "dose": 0.5 * row}


class OwnData(LightningDataModule):
    """Batches of samples that a function returns for each row.

    Args:
        size: number of training samples.
        kind: name of the function.
        collates: whether samples are stacked. Otherwise, a batch is a list of samples.
    """

    def __init__(self, size: int = 5, kind: str = "pair", collates: bool = True) -> None:
        super().__init__()
        sample: Callable[[int], Any] = {"pair": pair, "unknown": with_unknown_keys}[kind]
        self.rows = [sample(row) for row in range(size)]
        self.collates = collates

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, batch_size=2, collate_fn=None if self.collates else lambda rows: rows)
