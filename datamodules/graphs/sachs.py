"""Concentrations of proteins and phospholipids in single human cells, and the consensus graph of their interactions."""

from collections.abc import Mapping
from pathlib import Path

from datamodules.files.data_directory import data_directory
from datamodules.graphs.recorded_nodes import read_nodes
from datamodules.tables.table_set import Rows, TableSet

NODES = 11


class Sachs(TableSet):
    """Sachs dataset: 853 cells, 11 nodes, in `<data_dir>/sachs/observational.csv` and `consensus_adjacency.csv`.

    As usual for linear methods, the values are neither log-transformed nor standardised. The true graph has 17
    unweighted edges. The test set equals the training set, because testing evaluates the estimated graph.

    Args:
        data_dir: folder that contains `sachs`. None means the NOISEWORKS_DATA directory.
    """

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (NODES,)}

    def training(self) -> Rows:
        folder = Path(data_directory(self.data_dir, "Sachs"), "sachs")
        return read_nodes(folder / "observational.csv", folder / "consensus_adjacency.csv", "Sachs")

    def test(self) -> Rows:
        return self.training()
