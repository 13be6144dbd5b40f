"""Observations of nodes in CSV files, a column each, with the graph that is believed to be true or without one."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from datamodules.files.number_tables import read_numbers, refuse_constant
from datamodules.tables.table_set import Rows, TableSet


def read_nodes(file: Path, graph: Path | None, name: str) -> Rows:
    """Read observations as they are, a row each, and the graph's edges or weights, from row to column.

    Args:
        file: CSV with a header that names the nodes.
        graph: CSV with the same header, whose first column holds the same names; None where no graph is known.
        name: name of the data set, for messages.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a column holds text, lacks values or is constant, or the files name other nodes.
    """
    observed = read_numbers(file, name)
    refuse_constant(observed, name)
    columns = {"features": torch.from_numpy(observed.to_numpy())}
    if graph is None:
        return Rows(columns)
    edges = read_numbers(graph, name, named_rows=True)
    if not list(observed) == list(edges) == list(edges.index):
        raise ValueError(f"{name}: {file} and {graph} name other nodes, or in another order")
    return Rows(columns, {"w_true": torch.from_numpy(edges.to_numpy())})


class RecordedNodes(TableSet):
    """Your own observations in a CSV file; what is tested is the graph, so the test rows are the training rows.

    Args:
        file: CSV with a column for each node, named in its first line.
        graph: CSV of the true graph, from row to column, whose first line and first column name the nodes; None where
            it is not known.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a column holds text, lacks values or is constant, or the files name other nodes.
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
