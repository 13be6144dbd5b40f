from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.tables.noised_points import (
    Atoms,
    CreditDefault,
    NoisedPoints,
    PointDistribution,
    StandardisedRows,
    StandardisedWine,
    UniformCube,
    UnitCircle,
)


@pytest.mark.parametrize("law", [Atoms(), Atoms(3), UniformCube(2, 2.0), UnitCircle()])
def test_the_posterior_mean_is_the_scores(law: PointDistribution) -> None:
    """Compare the posterior mean with a weighted mean of many samples, and with the conditional mean of the targets."""
    random = np.random.default_rng(0)
    x = random.standard_normal((4, 2))
    a, h = np.full((4, 1), 0.8), np.full((4, 1), 0.36)
    clean = law.draw(400_000, random, test=False)
    mean = law.posterior_mean(x, a, h)
    log_weight = -((x[:, None] - 0.8 * clean) ** 2).sum(-1) / (2 * 0.36)
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    np.testing.assert_allclose(mean, weight @ clean / weight.sum(1, keepdims=True), atol=0.01)
    rows = NoisedPoints(law, samples=20_000, seed=1).training().columns
    noise = rows["target"] - rows["clean_target"]
    assert (noise * rows["features"][:, :2].tanh()).mean(0).abs().max() < 0.02
    assert rows["clean_target"].norm(dim=1).max() <= 2**0.5 + 1e-9


def test_the_score_of_atoms_is_a_derivative() -> None:
    law, a, h = Atoms(), np.array([[0.7]]), np.array([[0.51]])

    def log_density(x: np.ndarray) -> float:
        return float(np.log(np.exp(-((x - 0.7 * law.atoms) ** 2).sum(1) / (2 * 0.51)).sum()))

    x = np.array([[0.3, -0.4]])
    score = (0.7 * law.posterior_mean(x, a, h) - x) / 0.51
    steps = np.eye(2) * 1e-5
    numeric = [(log_density(x + step) - log_density(x - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(score[0], numeric, atol=1e-6)


def test_far_tails_of_the_cube_stay_inside() -> None:
    x = np.array([[30.0, -40.0]])
    mean = UniformCube(2, 2.0).posterior_mean(x, np.array([[0.9]]), np.array([[0.19]]))
    assert (np.abs(mean) <= 1).all()
    assert mean[0] == pytest.approx([1, -1], abs=0.01)


def test_rows_have_one_draw_each_and_times_within_bounds() -> None:
    table = NoisedPoints(Atoms(), samples=50, start=0.2, end=0.6, seed=3)
    first, again = table.training().columns, table.training().columns
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["features"][:, 2].min() >= 0
    assert first["features"][:, 2].max() <= 0.4
    assert (first["features"][:, 3] == 1).all()


def test_tables_are_standardised_and_kept_in_the_ball(tmp_path: Path) -> None:
    points = StandardisedWine(radius=4.0).draw(500, np.random.default_rng(0), test=False)
    assert points.shape == (500, 13)
    assert np.linalg.norm(points, axis=1).max() <= 4 + 1e-9
    with pytest.raises(FileNotFoundError, match=r"UCI_Credit_Card\.csv does not exist"):
        CreditDefault(str(tmp_path)).rows()
    pd.DataFrame(np.random.default_rng(0).random((9, 25))).to_csv(tmp_path / "UCI_Credit_Card.csv", index=False)
    assert CreditDefault(str(tmp_path)).rows().shape == (9, 23)
    pd.DataFrame(np.zeros((9, 4))).to_csv(tmp_path / "UCI_Credit_Card.csv", index=False)
    with pytest.raises(ValueError, match="25 columns, ID, 23 features and the label, got 4"):
        CreditDefault(str(tmp_path)).rows()


class Ten(StandardisedRows):
    dim = 2

    def rows(self) -> np.ndarray:
        return np.arange(20.0).reshape(10, 2) ** 2


def test_a_third_of_the_rows_is_held_out_and_standardised_as_the_others() -> None:
    training, test = (
        np.unique(Ten(radius=100).draw(2000, np.random.default_rng(0), test=split), axis=0) for split in (False, True)
    )
    assert (len(training), len(test)) == (7, 3)
    np.testing.assert_allclose(training.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(training.std(0), 1)
    scale = np.diff(np.sort(np.concatenate([training, test]), axis=0)[:, 0])
    np.testing.assert_allclose(scale / scale[0], np.diff(Ten().rows()[:, 0]) / 4)  # both sets use the same map
