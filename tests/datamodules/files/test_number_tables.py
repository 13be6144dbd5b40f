import bz2
from pathlib import Path

import numpy as np
import pytest

from datamodules.files.number_tables import read_numbers, read_svmlight, refuse_constant


def test_numbers_are_read_and_a_constant_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(",a,b\nx,1,2\ny,3,2\n")
    table = read_numbers(tmp_path / "table.csv", "Cells", named_rows=True)
    assert table.to_numpy().tolist() == [[1.0, 2.0], [3.0, 2.0]]
    assert list(table.index) == ["x", "y"]
    with pytest.raises(ValueError, match="Cells: column b is constant, 2 in every row"):
        refuse_constant(table, "Cells")
    with pytest.raises(FileNotFoundError, match=r"Cells: .*none.csv does not exist; set data_dir"):
        read_numbers(tmp_path / "none.csv", "Cells")


def test_an_svmlight_file_is_read_padded_and_unpacked(tmp_path: Path) -> None:
    text = b"# a comment\n2 1:0.5 3:-1\n1\n2 2:4e-1 # and another\n"
    (tmp_path / "plain").write_bytes(text)
    (tmp_path / "packed.bz2").write_bytes(bz2.compress(text))
    for name in ("plain", "packed.bz2"):
        features, label = read_svmlight(tmp_path / name, "Set", num_features=5)
        assert features.nnz == 3
        np.testing.assert_array_equal(features.toarray(), [[0.5, 0, -1, 0, 0], [0] * 5, [0, 0.4, 0, 0, 0]])
        assert label.tolist() == [2.0, 1.0, 2.0]


def test_a_damaged_or_missing_svmlight_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.bz2").write_bytes(bz2.compress(b"1 1:2\n" * 99)[:-9])
    with pytest.raises(ValueError, match=r"Set: .*cut.bz2 is damaged or not an svmlight file"):
        read_svmlight(tmp_path / "cut.bz2", "Set", num_features=3)
    with pytest.raises(FileNotFoundError, match=r"Set: .*none.bz2 does not exist; set data_dir"):
        read_svmlight(tmp_path / "none.bz2", "Set", num_features=3)
