from pathlib import Path

import pytest
import torch

from datamodules.tables.svmlight import SVMLight
from datamodules.tables.tables import Tables


def written(folder: Path, text: str) -> SVMLight:
    (folder / "libsvm").mkdir()
    (folder / "libsvm" / "set").write_text(text)
    return SVMLight("set", num_features=4, data_dir=str(folder))


@pytest.mark.parametrize("labels", [(-1, 1), (1, 2), (0, 1)])
def test_two_labels_become_signs_and_rows_are_dense_in_batches_alone(labels: tuple[int, int], tmp_path: Path) -> None:
    low, high = labels
    table = written(tmp_path, f"{high} 1:0.5 3:-1\n{low} 2:1\n{high} 3:2\n")
    rows = table.training()
    assert list(rows.columns) == ["target"]
    assert rows.sparse["features"].nnz == 4
    assert rows.columns["target"].tolist() == [1.0, -1.0, 1.0]
    chosen = rows.chosen(torch.tensor([2, 0]))
    assert chosen["features"].tolist() == [[0, 0, 2, 0], [0.5, 0, -1, 0]]
    assert chosen["target"].tolist() == [1.0, 1.0]
    data = Tables(table, batch_size=2)
    assert data.row_shapes == {"features": (4,), "target": ()}
    assert data.training_rows["features"].shape == (3, 4)
