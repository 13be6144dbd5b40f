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
