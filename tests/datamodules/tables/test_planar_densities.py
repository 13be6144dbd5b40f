import pytest
import torch

from datamodules.tables.planar_densities import EightGaussians, NormalNumbers, TwoMoons


@pytest.mark.parametrize("law", [TwoMoons, EightGaussians])
def test_points_in_the_plane_are_seeded(law: type) -> None:
    points, again = (law(samples=4000, seed=1).training().columns["features"] for _ in range(2))
    assert torch.equal(points, again)
    if law is EightGaussians:
        assert float(points.norm(dim=1).mean()) == pytest.approx(2, abs=0.03)
    else:
        assert points.min(0).values.tolist() == pytest.approx([-1.6, -1.0], abs=0.35)


def test_normal_numbers_have_their_mean_and_batches_know_it() -> None:
    rows = NormalNumbers(2.5, samples=4000, seed=0).training()
    assert float(rows.columns["features"].mean()) == pytest.approx(2.5, abs=0.05)
    assert rows.truth["w_true"].tolist() == [2.5]
