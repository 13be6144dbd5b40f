"""Read observations of graph nodes from CSV files with one column per node.

The presumed true graph can be given in a second file.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from datamodules.files.number_tables import read_numbers, refuse_constant
from datamodules.tables.table_set import Rows, TableSet


def read_nodes(file: Path, graph: Path | None, name: str) -> Rows:
    """Read the observations (one per row, not standardised) and the graph (edges or edge weights, from row to column).

    Args:
        file: CSV file of the observations, with node names in the header.
        graph: CSV file of the graph, with the node names in the header and in the first column. None if no graph is
            known.
        name: name of the dataset, for error messages.
    """
    observed = read_numbers(file, name)
    refuse_constant(observed, name)
    columns = {"features": torch.from_numpy(observed.to_numpy())}
    if graph is None:
        return Rows(columns)
    edges = read_numbers(graph, name, named_rows=True)
    if not list(observed) == list(edges) == list(edges.index):
        raise ValueError(f"{name}: {file} and {graph} must name the same nodes in the same order")
    return Rows(columns, {"w_true": torch.from_numpy(edges.to_numpy())})


class RecordedNodes(TableSet):
    """Observations in a CSV file that the user provides.

    Testing evaluates the estimated graph and uses the training rows again.

    Args:
        file: CSV file with one column per node. The header has the node names.
        graph: CSV file of the true graph, with edges from row to column, and with the node names in the header and in
            the first column. None if the graph is unknown.
    """

    def __init__(self, file: str, graph: str | None = None) -> None:
        self.file = Path(file)
        self.graph = None if graph is None else Path(graph)

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (len(pd.read_csv(self.file, nrows=0).columns),)}

    def training(self) -> Rows:
        return read_nodes(self.file, self.graph, "RecordedNodes")

    def test(self) -> Rows:
        return self.training()
