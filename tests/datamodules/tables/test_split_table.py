import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.tables.split_table import SplitTable


class Numbers(SplitTable):
    num_features = 2

    def read(self) -> tuple[pd.DataFrame, pd.Series]:
        x = pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0) ** 2})
        return x, 3 * x["a"] + 7


def test_each_row_is_in_one_split_and_the_seed_says_in_which() -> None:
    table = Numbers(validation_fraction=0.2, test_fraction=0.3, seed=1)
    splits = [table.training(), table.validation(), table.test()]
    assert [len(split) for split in splits if split] == [20, 8, 12]
    rows = torch.cat([split.columns["features"] for split in splits if split])
    assert len(rows.unique(dim=0)) == 40
    assert torch.equal(Numbers(seed=1).test().columns["target"], Numbers(seed=1).test().columns["target"])
    assert not torch.equal(Numbers(seed=2).test().columns["features"], Numbers(seed=1).test().columns["features"])


def test_training_rows_alone_say_what_is_standard_and_units_are_kept() -> None:
    table = Numbers(train_size=5, validation_fraction=0, seed=3)
    train, test = table.training(), table.test()
    assert table.validation() is None
    assert {key: column.shape[1:] for key, column in train.columns.items()} == table.row_shapes
    for column in train.columns.values():
        torch.testing.assert_close(column.mean(0), torch.zeros_like(column[0]), atol=1e-12, rtol=0)
        torch.testing.assert_close(column.std(0, correction=0), torch.ones_like(column[0]))
    in_units = test.columns["target"] * test.truth["target_std"] + test.truth["target_mean"]
    assert set(in_units.round().tolist()) <= set((3 * np.arange(40.0) + 7).tolist())
    assert torch.equal(test.truth["target_mean"], train.truth["target_mean"])


def test_a_column_that_is_constant_where_it_trains_is_named() -> None:
    class Constant(Numbers):
        def read(self) -> tuple[pd.DataFrame, pd.Series]:
            features, target = super().read()
            return features.assign(b=1.0), target

    with pytest.raises(ValueError, match="Constant's training rows: column b is constant, 1 in every row"):
        Constant().training()
