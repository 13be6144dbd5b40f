from typing import Any

import pytest
import torch

from datamodules.tables.bundled import BreastCancer
from datamodules.tables.trusted_rows import TrustedRows
from lightning_modules.optimization.mbbo.rows import WeightedRows


def rows() -> Any:
    table = TrustedRows(BreastCancer(validation_fraction=0.0, test_fraction=0.01), 50, 20, flipped=0.3)
    return table.training().columns


def test_batches_are_rows_of_the_table_with_labels_over_temperatures() -> None:
    table, temperature = rows(), torch.tensor([1.0, 4.0]).double()
    given = WeightedRows(table, 50, 30)
    training, trusted = given.drawn((2, 7), 1, 0)
    batch = given.batch(training, trusted, temperature)
    for samples, place, first in ((batch.training, training, 0), (batch.trusted, trusted, 50)):
        assert torch.equal(samples.z[..., 1:], table["features"][first + place])
        assert torch.equal(samples.z[..., 0], torch.ones(2, 7).double())
        assert torch.equal(samples.a, table["target"][first + place] / temperature[:, None])
    whole = given.whole(temperature)
    assert whole.training.z.shape == (2, 50, 31)
    assert torch.equal(whole.trusted.z[1, :, 1:], table["features"][50:])
    assert torch.equal(given.corrupted, table["corrupted"][:50])


def test_what_is_drawn_follows_from_purpose_and_number_and_covers_all_rows() -> None:
    given = WeightedRows(rows(), 50, 30)
    one, again, next_one, other = (given.drawn((100, 9), *words)[0] for words in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert torch.equal(one, again)
    assert not torch.equal(one, next_one)
    assert not torch.equal(one, other)
    assert one.unique().tolist() == list(range(50))
    assert given.drawn((100, 9), 1, 0)[1].unique().tolist() == list(range(20))


@pytest.mark.parametrize(
    ("left_out", "samples", "features", "message"),
    [
        ("", 50, 29, "model.features must be 30, as many as rows have, got 29"),
        ("", 49, 30, "model.samples must be at least 50, the rows that get weights, got 49"),
        ("trusted", 50, 30, "weights need rows that are trusted"),
    ],
)
def test_rows_that_do_not_fit_are_refused(left_out: str, samples: int, features: int, message: str) -> None:
    table = {name: column for name, column in rows().items() if name != left_out}
    with pytest.raises(ValueError, match=message):
        WeightedRows(table, samples, features)
