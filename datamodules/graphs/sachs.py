"""Proteins and phospholipids in single human cells, and the graph of their interactions that biologists agree on."""

from collections.abc import Mapping
from pathlib import Path

from datamodules.files.data_directory import data_directory
from datamodules.graphs.recorded_nodes import read_nodes
from datamodules.tables.table_set import Rows, TableSet

NODES = 11


class Sachs(TableSet):
    """Sachs's 853 observed cells with 11 nodes: `<data_dir>/sachs/observational.csv` and `consensus_adjacency.csv`.

    Values are as measured, without logarithm or standardisation, as methods of linear equations take them. The true
    graph has 17 edges without weights. What is tested is the graph, so the test rows are the training rows.

    Args:
        data_dir: folder that holds `sachs`; None looks where NOISEWORKS_DATA points.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged.
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
