"""The map is linear, and its rows have the expected scale factors."""

import pytest
import torch

from datamodules.tables.ill_conditioned_map import IllConditionedMap


def test_targets_are_a_linear_map_of_rows_with_shrinking_factors() -> None:
    rows = IllConditionedMap(samples=500, seed=3).training().columns
    a = torch.linalg.lstsq(rows["features"], rows["target"]).solution.T
    torch.testing.assert_close(rows["features"] @ a.T, rows["target"], rtol=0, atol=1e-12)
    uniform = a[:-1] / torch.linspace(1, 1e-10, 10, dtype=torch.float64)[:-1, None]
    assert 0 < uniform.min() < 0.1 < 0.9 < uniform.max() < 1
    assert a[-1].abs().max() < 1e-9
    assert rows["features"].std().item() == pytest.approx(1, abs=0.05)
    assert not torch.equal(rows["target"], IllConditionedMap(samples=500, seed=4).training().columns["target"])
