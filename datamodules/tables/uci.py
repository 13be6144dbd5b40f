"""Tables of the UCI repository, in the file layout that is commonly used for comparing Bayesian methods."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from datamodules.files.data_directory import data_directory
from datamodules.files.limits import to_int64
from datamodules.files.number_tables import read_unnamed_numbers
from datamodules.tables.split_table import SplitTable

NUM_FEATURES = {
    "bostonHousing": 13,
    "concrete": 8,
    "energy": 8,
    "kin8nm": 8,
    "naval-propulsion-plant": 16,
    "power-plant": 4,
    "protein-tertiary-structure": 9,
    "wine-quality-red": 11,
    "yacht": 6,
}
"""Number of features of each commonly used table, which is thus known before the table is read."""


MOST_COLUMN = 1_000_000


class UCI(SplitTable):
    """A table with one target, read from three text files in `<data_dir>/uci/<name>`.

    The file `data.txt` contains numbers separated by white space, without a header. The files `index_features.txt` and
    `index_target.txt` contain the positions of the feature and target columns, counted from 0. Constant columns are
    rejected; to omit a constant column, remove its position from these files.

    Args:
        name: folder of the table, such as `yacht`.
        data_dir: folder that contains `uci`; None means the NOISEWORKS_DATA directory.
        train_size: number of training rows; None means all rows that are not used for validation or testing.
        validation_fraction: fraction of all rows that are used for validation. 0 means no validation.
        test_fraction: fraction of all rows that are used for testing.
        seed: seed of the split; None means the DataModule's seed.

    Source: Gal and Ghahramani, Dropout as a Bayesian Approximation, ICML 2016, arXiv 1506.02142; the layout is that of
    their published data.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | None = None,
        train_size: int | None = None,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int | None = None,
    ) -> None:
        super().__init__(train_size, validation_fraction, test_fraction, seed)
        self.name = name
        self.data_dir = data_dir

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        count = NUM_FEATURES[self.name] if self.name in NUM_FEATURES else len(self._places("features"))
        return {"features": (count,), "target": ()}

    @property
    def folder(self) -> Path:
        return Path(data_directory(self.data_dir, "UCI"), "uci", self.name)

    def _places(self, kind: str) -> list[int]:
        path = self.folder / f"index_{kind}.txt"
        places = read_unnamed_numbers(path, "UCI").to_numpy().ravel()
        return to_int64(places, 0, MOST_COLUMN, path, "column").tolist()

    def read(self) -> tuple[pd.DataFrame, pd.Series]:
        table = read_unnamed_numbers(self.folder / "data.txt", "UCI")
        features, target = self._places("features"), self._places("target")
        if len(target) != 1 or set(features) & set(target) or not {*features, *target} <= set(table):
            raise ValueError(
                f"UCI: {self.folder} must have one target column that is not a feature, and list only columns of its "
                f"table, which has {len(table.columns)} columns in total; got features {features} and target {target}"
            )
        return table[features], table[target[0]]
