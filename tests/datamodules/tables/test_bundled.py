import pytest
import torch

from datamodules.tables.bundled import BreastCancer, Diabetes, Wine
from datamodules.tables.split_table import SplitTable


@pytest.mark.parametrize(("table", "rows"), [(Diabetes(), 442), (BreastCancer(), 569), (Wine(), 178)])
def test_rows_are_those_of_scikit_learn(table: SplitTable, rows: int) -> None:
    splits = [table.training(), table.validation(), table.test()]
    assert sum(len(split) for split in splits if split) == rows
    assert splits[0].columns["features"].shape[1] == table.num_features


def test_classes_are_whole_numbers_and_tumours_have_signs() -> None:
    assert set(Wine().training().columns["target"].tolist()) == {0, 1, 2}
    sign = BreastCancer().training()
    assert sign.columns["target"].dtype == torch.int64
    assert set(sign.columns["target"].tolist()) == {-1, 1}
    assert sign.columns["target"].sum() > 0  # most are benign
    assert not sign.truth
    assert 140 < float(Diabetes().training().truth["target_mean"]) < 165
