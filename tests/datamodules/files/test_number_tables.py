from pathlib import Path

import pytest

from datamodules.files.number_tables import read_numbers, refuse_constant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,red\n", "column b of .* holds text: 'red'"),
        ("a,b\n1,2\n,4\n", "column a of .* lacks a value in row 2"),
        ("a,b\n1,inf\n", "column b of .* lacks a value in row 1"),
        ("a,b\n", "holds no rows"),
    ],
)
def test_a_column_without_numbers_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=f"Cells: .*{message}"):
        read_numbers(tmp_path / "table.csv", "Cells")


def test_numbers_are_read_and_a_constant_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(",a,b\nx,1,2\ny,3,2\n")
    table = read_numbers(tmp_path / "table.csv", "Cells", named_rows=True)
    assert table.to_numpy().tolist() == [[1.0, 2.0], [3.0, 2.0]]
    assert list(table.index) == ["x", "y"]
    with pytest.raises(ValueError, match="Cells: column b is constant, 2 in every row"):
        refuse_constant(table, "Cells")
    with pytest.raises(FileNotFoundError, match=r"Cells: .*none.csv does not exist; set data_dir"):
        read_numbers(tmp_path / "none.csv", "Cells")
