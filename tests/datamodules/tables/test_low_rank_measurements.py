from typing import Any

import pytest
import torch

from datamodules.corruptions.value_noise import GrossOutliers
from datamodules.tables.low_rank_measurements import LowRankMeasurements


def test_measurements_are_of_the_matrix_except_where_they_are_corrupted() -> None:
    made = LowRankMeasurements(6, [2.0, 0.5], 5000, GrossOutliers(0.3, 10.0), seed=1)
    rows, x_star = made.training(), made.training().truth["x_star"]
    expected = torch.tensor([0.0] * 4 + [0.5, 2.0]).double()
    torch.testing.assert_close(torch.linalg.eigvalsh(x_star), expected, atol=1e-12, rtol=0)
    features, target = rows.columns["features"], rows.columns["target"]
    exact = (features * x_star).sum(dim=(1, 2))
    torch.testing.assert_close(rows.columns["clean_target"], exact)
    torch.testing.assert_close(rows.columns["corrupted"], (target - exact).abs() > 1e-9)
    assert rows.columns["corrupted"].double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert features.std().item() == pytest.approx(1, abs=0.01)
    assert {name: column.shape[1:] for name, column in rows.columns.items()} == made.row_shapes
    assert torch.equal(features, made.test().columns["features"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 2, "eigenvalues": [1.0] * 3}, "number_of_eigenvalues must be in"),
        ({"eigenvalues": [1.0, 0.0]}, "eigenvalues must be positive, got 0.0"),
        ({"measurements": 0}, "measurements must be at least 1"),
    ],
)
def test_what_is_out_of_range_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowRankMeasurements(**arguments)
