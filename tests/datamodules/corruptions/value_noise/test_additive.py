"""Each distribution equals SciPy's with the same moments, and its samples follow both."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from datamodules.corruptions.value_noise import (
    Exponential,
    GaussianValues,
    GrossOutliers,
    Gumbel,
    Laplace,
    StudentT,
    ValueNoise,
)

LAWS: list[tuple[ValueNoise, Any]] = [
    (GaussianValues(2.0), stats.norm(scale=2.0)),
    (Laplace(2.0), stats.laplace(scale=2.0 / math.sqrt(2))),
    (Gumbel(2.0), stats.gumbel_r(scale=math.sqrt(6 * 4.0) / math.pi)),
    (Exponential(2.0), stats.expon(scale=2.0)),
    (StudentT(5.0, 2.0), stats.t(5.0, scale=2.0)),
]


@pytest.mark.parametrize(("law", "scipys"), LAWS, ids=lambda each: type(each).__name__)
def test_a_law_has_its_moments_and_its_draws_are_of_it(law: ValueNoise, scipys: Any) -> None:
    assert law.mean == pytest.approx(float(scipys.mean()), abs=1e-12)
    assert law.variance == pytest.approx(float(scipys.var()), rel=1e-12)
    drawn = law.draw((100, 200), np.random.default_rng(0))
    assert drawn.shape == (100, 200)
    assert drawn.dtype == np.float64
    assert stats.kstest(drawn.ravel(), scipys.cdf).pvalue > 0.01
    assert np.array_equal(drawn, law.draw((100, 200), np.random.default_rng(0)))


def test_outliers_are_gross_and_the_rest_is_exact() -> None:
    law = GrossOutliers(0.3, 5.0)
    drawn = law.draw((40_000,), np.random.default_rng(0))
    assert np.mean(drawn != 0) == pytest.approx(0.3, abs=0.01)
    assert stats.kstest(drawn[drawn != 0], stats.norm(scale=5.0).cdf).pvalue > 0.01
    assert drawn.var() == pytest.approx(law.variance, rel=0.05)


def test_moments_that_do_not_exist() -> None:
    assert StudentT(2.0).variance == math.inf
    assert math.isnan(StudentT(1.0).mean)
