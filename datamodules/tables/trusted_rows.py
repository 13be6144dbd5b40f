"""Trusted and untrusted rows of two classes. Some positives of the untrusted rows are removed, some labels flipped."""

from collections.abc import Mapping

import numpy as np
import torch

from datamodules.arguments import at_least, within
from datamodules.tables.table_set import Rows, TableSet


class TrustedRows(TableSet):
    """A table split into untrusted training rows with label noise, trusted training rows and test rows.

    All rows come from the training rows of `table`. The training set consists of the untrusted rows, followed by the
    trusted rows, which are marked in the column `trusted`.

    Args:
        table: table whose training rows are split. They have `features` and a `target` of -1 or 1.
        train_size: number of untrusted rows before positives are removed.
        trusted_size: number of trusted rows, which have true labels. All rows that are neither trusted nor untrusted
            are test rows.
        flipped: fraction of the untrusted rows with flipped labels.
        kept_positives: fraction of the positive untrusted rows to keep. The other positive rows are removed before
            labels are flipped.
        seed: seed of the split and the noise. None means the seed of the DataModule.
    """

    def __init__(
        self,
        table: TableSet,
        train_size: int,
        trusted_size: int,
        flipped: float = 0.0,
        kept_positives: float = 1.0,
        seed: int | None = None,
    ) -> None:
        at_least(1, train_size=train_size, trusted_size=trusted_size)
        within(0, 1, flipped=flipped)
        within(0, 1, "(]", kept_positives=kept_positives)
        self.table = table
        self.train_size = train_size
        self.trusted_size = trusted_size
        self.flipped = flipped
        self.kept_positives = kept_positives
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {**self.table.row_shapes, "clean_target": (), "corrupted": (), "trusted": ()}

    def fetch_missing(self) -> None:
        self.table.fetch_missing()

    def training(self) -> Rows:
        return self._dealt()[0]

    def test(self) -> Rows:
        return self._dealt()[1]

    def _dealt(self) -> tuple[Rows, Rows]:
        rows = self.table.training().dense()
        features, clean = rows["features"], rows["target"].double().numpy()
        if len(clean) <= self.train_size + self.trusted_size:
            raise ValueError(
                f"train_size {self.train_size} and trusted_size {self.trusted_size} leave none of the {len(clean)} "
                f"rows of {type(self.table).__name__} to test with"
            )
        random = np.random.default_rng([self.seed or 0, 5])
        order = random.permutation(len(clean))
        train, trusted, test = np.split(order, [self.train_size, self.train_size + self.trusted_size])
        positive = np.flatnonzero(clean[train] == 1)
        removed = int((1 - self.kept_positives) * len(positive))
        train = np.delete(train, random.permutation(positive)[:removed])
        corrupted = np.zeros(len(train) + len(trusted), dtype=bool)
        corrupted[random.permutation(len(train))[: int(self.flipped * len(train))]] = True
        chosen = np.concatenate([train, trusted])
        columns = {
            "target": np.where(corrupted, -clean[chosen], clean[chosen]),
            "clean_target": clean[chosen],
            "corrupted": corrupted,
            "trusted": np.arange(len(chosen)) >= len(train),
        }
        training = {"features": features[chosen], **{key: torch.from_numpy(each) for key, each in columns.items()}}
        target = torch.from_numpy(clean[test])
        return Rows(training), Rows({"features": features[test], "target": target, "clean_target": target})
