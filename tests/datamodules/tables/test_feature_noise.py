"""Points with a strong and a weak feature: their patches, noise and seeds."""

import pytest
import torch

from datamodules.tables.feature_noise import FeatureNoise


def test_patches_are_the_features_with_the_points_sign_and_noise_orthogonal_to_both() -> None:
    table = FeatureNoise(200, 30, dim=20, strong_norm=2.0, weak_norm=0.3, noise_std=0.4, replicas=50, seed=1)
    rows = table.training().columns
    u, v = table.signals
    assert (float(u @ v), float(u.norm()), float(v.norm())) == (0, 2, 0.3)
    y = rows["target"][..., None]
    assert set(y.unique().tolist()) == {-1, 1}
    assert abs(float(y.mean())) < 0.04
    strong, weak, noise = rows["features"].unbind(dim=2)
    assert not strong[:30].any()
    torch.testing.assert_close(strong[30:], y[30:] * u, rtol=0, atol=0)
    torch.testing.assert_close(weak, y * v, rtol=0, atol=0)
    assert float((noise @ table.signals.T).abs().max()) < 1e-12
    assert float((noise**2).sum(-1).mean()) == pytest.approx(0.4**2 * 18, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)


def test_sets_differ_and_all_is_of_its_seed() -> None:
    one, other = (FeatureNoise(5, 2, 9, 4, dim=6, replicas=3, seed=seed) for seed in (0, 1))
    first = one.training().columns["features"]
    assert first.shape == (5, *one.row_shapes["features"])
    assert first.equal(one.training().columns["features"])
    assert not first.equal(other.training().columns["features"])
    assert not first[:, 0, 2].equal(first[:, 1, 2])
    for rows in (one.validation(), one.test()):
        assert rows.columns["features"].shape == (9, 1, 3, 6)
        assert rows.columns["features"][:, 0, 0].any(dim=1).tolist() == [False] * 4 + [True] * 5
    assert not one.validation().columns["features"].equal(one.test().columns["features"])
