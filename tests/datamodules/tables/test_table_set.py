import pytest
import torch

from datamodules.tables.table_set import Rows


@pytest.mark.parametrize("columns", [{"features": torch.zeros(3, 2), "target": torch.zeros(2)}, {}])
def test_columns_of_different_lengths_are_named(columns: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="features 3, target 2" if columns else "no column"):
        Rows(columns)
