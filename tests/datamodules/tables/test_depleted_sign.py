"""Points that are sparse near the boundary: their distribution, labels and seeds."""

import math

import pytest
import torch

from datamodules.tables.depleted_sign import DepletedSign


@pytest.mark.parametrize("chi", [0.0, 1.0, 3.0])
def test_the_first_coordinate_has_the_depleted_density(chi: float) -> None:
    rows = DepletedSign(200_000, dim=3, depletion=chi, seed=0).training()
    first, second, _ = rows.columns["features"].unbind(dim=1)
    expected = math.sqrt(2) * math.gamma((chi + 2) / 2) / math.gamma((chi + 1) / 2)
    assert float(first.abs().mean()) == pytest.approx(expected, rel=0.01)
    assert float((first**2).mean()) == pytest.approx(chi + 1, rel=0.01)
    assert float((second**2).mean()) == pytest.approx(1, rel=0.01)
    assert float(first.mean()) == pytest.approx(0, abs=0.01 * math.sqrt(chi + 1))
    torch.testing.assert_close(rows.columns["target"], first.sign())


def test_points_are_of_their_seed_and_test_points_of_none() -> None:
    one, other = DepletedSign(20, seed=1), DepletedSign(20, seed=2)
    assert one.training().columns["features"].equal(one.training().columns["features"])
    assert not one.training().columns["features"].equal(other.training().columns["features"])
    assert one.test().columns["features"].equal(other.test().columns["features"])
    assert one.row_shapes == {"features": (16,), "target": ()}
    assert one.training().truth["w_true"].tolist() == [1.0] + [0.0] * 15
