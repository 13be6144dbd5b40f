import numpy as np
import pytest

from datamodules.corruptions.value_noise import (
    AdversarialFlips,
    BoundaryFlips,
    ConstantFlips,
    HalfFlips,
    SignFlips,
)

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((50_000, 3))
MARGIN = FEATURES[:, 1]


@pytest.mark.parametrize(
    ("flips", "expected", "most"),
    [
        (ConstantFlips(0.2), np.full(50_000, 0.2), 0.2),
        (HalfFlips(0.4, coordinate=0), 0.4 * (FEATURES[:, 0] > 0), 0.4),
        (BoundaryFlips(0.3), 0.3 * np.exp(-np.abs(MARGIN)), 0.3),
    ],
)
def test_labels_are_flipped_as_often_as_the_law_says(flips: SignFlips, expected: np.ndarray, most: float) -> None:
    probability = flips.probability(FEATURES, MARGIN)
    np.testing.assert_allclose(probability, expected)
    assert probability.max() <= most
    drawn = flips.flips(FEATURES, MARGIN, np.random.default_rng(1))
    for part in (FEATURES[:, 0] > 0, MARGIN > 1, np.abs(MARGIN) < 0.1):
        assert drawn[part].mean() == pytest.approx(probability[part].mean(), abs=0.02)


def test_an_adversary_flips_the_stated_share_of_normal_points_near_the_boundary_on_one_side() -> None:
    flips = AdversarialFlips(0.2, coordinate=2)
    flipped = flips.flips(FEATURES, MARGIN, np.random.default_rng(1))
    assert flipped.mean() == pytest.approx(0.2, abs=0.006)
    assert (FEATURES[flipped, 2] > 0).all()
    other = (FEATURES[:, 2] > 0) & ~flipped  # label flips depend only on the point
    assert np.abs(MARGIN[flipped]).max() < np.abs(MARGIN[other]).min()
    assert not AdversarialFlips(0.0).flips(FEATURES, MARGIN, np.random.default_rng(1)).any()
