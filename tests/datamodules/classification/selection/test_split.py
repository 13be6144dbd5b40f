from typing import Any

import pytest
import torch

from datamodules.classification.selection.split import Split
from tests.datamodules.classification.patterns import Patterns

LABEL = torch.arange(40) % 4


@pytest.mark.parametrize(("own", "count"), [(False, 4), (True, 0)])
def test_null_holds_out_a_tenth_where_the_dataset_has_no_validation_images(own: bool, count: int) -> None:
    kept, held_out, tested = Split(None).rows(Patterns(own_validation=own), LABEL, LABEL, seed=3)
    assert (len(kept), len(held_out), len(tested)) == (40 - count, count, 0)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(40))
    assert LABEL[held_out].bincount(minlength=4).tolist() == [count // 4] * 4


def test_each_image_is_held_out_by_one_fold() -> None:
    held_out = [Split(folds=5, fold=fold).rows(Patterns(), LABEL, LABEL, seed=3)[1].tolist() for fold in range(5)]
    assert sorted(row for fold in held_out for row in fold) == list(range(40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 1.0}, r"split\.validation_fraction must be in \[0, 1\), got 1\.0"),
        ({"folds": 3, "fold": 3}, r"split\.fold must be in 0 \.\.\. folds - 1 \(folds is 3\), got 3"),
        ({"folds": 3, "validation_fraction": 0.1}, r"split\.validation_fraction must be 0 if folds is set"),
    ],
)
def test_a_split_that_contradicts_itself_is_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(**options)
