"""Bridges: their exact standard deviation, and rejections."""

import pytest

from datamodules.sequences.bridge_paths import BridgePaths


def test_the_bridge_of_h_0_7_is_narrower_than_the_brownian_one() -> None:
    """The exact standard deviations in the middle are 0.618 and 0.745."""
    for hurst, expected in ((0.7, 0.618), (0.5, 0.745)):
        truth = BridgePaths(hurst, "II", sigma=0.5, num_times=101).test().truth
        assert float(truth["exact_std"][50]) == pytest.approx(expected, abs=5e-4)
