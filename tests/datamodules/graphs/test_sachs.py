import os
from pathlib import Path

import pytest

from datamodules.graphs.sachs import Sachs

CELLS = "A,B,C\n1,2,3\n4,5,10\n2,9,4\n"
GRAPH = '"","A","B","C"\n"A",0,1,0\n"B",0,0,0\n"C",0,1,0\n'


def written(folder: Path, cells: str = CELLS, graph: str = GRAPH) -> Sachs:
    (folder / "sachs").mkdir()
    (folder / "sachs" / "observational.csv").write_text(cells)
    (folder / "sachs" / "consensus_adjacency.csv").write_text(graph)
    return Sachs(str(folder))


def test_values_are_as_measured_and_edges_point_from_row_to_column(tmp_path: Path) -> None:
    rows = written(tmp_path).training()
    assert rows.columns["features"].tolist() == [[1, 2, 3], [4, 5, 10], [2, 9, 4]]
    assert rows.truth["w_true"].nonzero().tolist() == [[0, 1], [2, 1]]


@pytest.mark.parametrize(
    ("cells", "graph", "message"),
    [
        (CELLS.replace("9", "many"), GRAPH, "column B of .* holds text: 'many'"),
        (CELLS.replace("C", "D"), GRAPH, "name other nodes"),
        ("A,B,C\n1,2,3\n4,2,10\n", GRAPH, "column B is constant"),
    ],
)
def test_files_that_do_not_fit_are_named(cells: str, graph: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        written(tmp_path, cells, graph).training()


@pytest.mark.data
def test_the_published_cells_and_graph() -> None:
    if "NOISEWORKS_DATA" not in os.environ:
        pytest.skip("NOISEWORKS_DATA is not set")
    rows = Sachs().training()
    assert rows.columns["features"].shape == (853, 11)
    assert int(rows.truth["w_true"].sum()) == 17
