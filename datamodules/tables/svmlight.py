"""Two-class tables in the text format of SVMlight and LIBSVM."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from datamodules.arguments import at_least
from datamodules.files.data_directory import data_directory
from datamodules.files.number_tables import read_svmlight
from datamodules.tables.table_set import Rows, TableSet


class SVMLight(TableSet):
    """Rows of sparse `features`, with unchanged values from the file.

    The `target` is -1 for the smaller of the two labels in the file and 1 for the larger.

    For example, labels 1 and 2 become -1 and 1. The rows are in the same order as in the file. Rows are converted to
    dense arrays when they are batched. The test set equals the training set, because methods are evaluated by their
    training loss or regret.

    Args:
        file: name of a file in `<data_dir>/libsvm`, such as `a8a.bz2`. Files with the suffix bz2 or gz are
            decompressed.
        num_features: number of columns of `features`. Values that the file does not list are 0.
        data_dir: folder that contains `libsvm`; None means the NOISEWORKS_DATA directory.
    """

    num_classes = 2

    def __init__(self, file: str, num_features: int, data_dir: str | None = None) -> None:
        at_least(1, num_features=num_features)
        self.file = file
        self.num_features = num_features
        self.data_dir = data_dir

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.num_features,), "target": ()}

    def training(self) -> Rows:
        return self._read

    def test(self) -> Rows:
        return self._read

    @cached_property
    def _read(self) -> Rows:
        path = Path(data_directory(self.data_dir, "SVMLight"), "libsvm", self.file)
        features, label = read_svmlight(path, "SVMLight", self.num_features)
        if len(found := np.unique(label)) != 2:
            listed = ", ".join(f"{value:g}" for value in found[:5])
            raise ValueError(f"SVMLight: {path} must have two labels, got {len(found)}: {listed}")
        target = np.where(label == found[1], 1.0, -1.0)
        return Rows({"target": torch.from_numpy(target)}, sparse={"features": features})
