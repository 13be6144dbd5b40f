"""Proteins and phospholipids in single human cells, and the graph of their interactions that biologists agree on."""

from collections.abc import Mapping
from pathlib import Path

import torch

from datamodules.files.data_directory import data_directory
from datamodules.files.number_tables import read_numbers, refuse_constant
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
        ValueError: if a column holds text, lacks values or is constant, or the files name other nodes.
    """

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (NODES,)}

    def training(self) -> Rows:
        folder = Path(data_directory(self.data_dir, "Sachs"), "sachs")
        cells = read_numbers(folder / "observational.csv", "Sachs")
        graph = read_numbers(folder / "consensus_adjacency.csv", "Sachs", named_rows=True)
        if not list(cells) == list(graph) == list(graph.index):
            raise ValueError(f"Sachs: the files of {folder} name other nodes, or in another order")
        refuse_constant(cells, "Sachs")
        truth = {"w_true": torch.from_numpy(graph.to_numpy())}
        return Rows({"features": torch.from_numpy(cells.to_numpy())}, truth)

    def test(self) -> Rows:
        return self.training()
