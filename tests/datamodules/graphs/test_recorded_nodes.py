from pathlib import Path

import pytest

from datamodules.graphs.recorded_nodes import RecordedNodes
from datamodules.graphs.sachs import Sachs

CELLS = "A,B,C\n1,2,3\n4,5,10\n2,9,4\n"
GRAPH = '"","A","B","C"\n"A",0,1,0\n"B",0,0,0\n"C",0,1,0\n'


def written(folder: Path, cells: str = CELLS, graph: str = GRAPH) -> list[Path]:
    (folder / "sachs").mkdir()
    files = [folder / "sachs" / name for name in ("observational.csv", "consensus_adjacency.csv")]
    for file, text in zip(files, (cells, graph), strict=True):
        file.write_text(text)
    return files


def test_values_are_as_recorded_and_edges_point_from_row_to_column(tmp_path: Path) -> None:
    file, graph = written(tmp_path)
    for table in (Sachs(str(tmp_path)), RecordedNodes(str(file), str(graph))):
        rows = table.training()
        assert rows.columns["features"].tolist() == [[1, 2, 3], [4, 5, 10], [2, 9, 4]]
        assert rows.truth["w_true"].nonzero().tolist() == [[0, 1], [2, 1]]
    alone = RecordedNodes(str(file))
    assert not alone.test().truth
    assert alone.row_shapes == {"features": (3,)}


@pytest.mark.parametrize(
    ("cells", "graph", "message"),
    [
        (CELLS.replace("9", "many"), GRAPH, "Sachs: column B of .* contains text: 'many'"),
        (CELLS.replace("C", "D"), GRAPH, "must name the same nodes in the same order"),
        ("A,B,C\n1,2,3\n4,2,10\n", GRAPH, "column B is constant"),
    ],
)
def test_files_that_do_not_fit_are_named(cells: str, graph: str, message: str, tmp_path: Path) -> None:
    written(tmp_path, cells, graph)
    with pytest.raises(ValueError, match=message):
        Sachs(str(tmp_path)).training()
