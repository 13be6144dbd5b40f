import math

import pytest
from scipy.stats import ttest_rel

from experiments.paper.paired_tests import find_best, paired_differences
from experiments.results import Result, summarise


def runs(config: str, *values: float, metric: str = "test/accuracy", diverged: bool = False) -> list[Result]:
    return [Result(config, metric, seed, value, diverged) for seed, value in enumerate(values)]


def test_p_is_that_of_the_two_sided_paired_t_test_over_the_seeds_of_both() -> None:
    """Of two pairs, t has a Cauchy distribution: p = 1 - 2/pi arctan |t|. Differences 1 and 3 have t = 2 / 1."""
    [two] = paired_differences([*runs("a", 1, 5), *runs("b", 2, 8)], [["a", "b"]])
    assert (two.reference, two.summary.config, two.summary.mean, two.summary.seeds) == ("a", "b", 2.0, 2)
    assert two.p == pytest.approx(1 - 2 / math.pi * math.atan(2))
    a, b = (0.7, 0.9, 0.8, 0.5), (0.4, 0.8, 0.7, 0.1)
    [lower] = paired_differences([*runs("a", *a, 9.0), *runs("b", *b)], [["a", "b"]])
    assert lower.summary.mean == pytest.approx(-0.225)
    assert lower.p == pytest.approx(ttest_rel(a, b).pvalue)


def test_without_what_the_test_needs_there_is_no_p() -> None:
    """A single pair has no difference. Equal differences, which vary by rounding only, have no p; nor do lost pairs."""
    assert paired_differences([*runs("a", 1), *runs("b", 2, 3)], [["a", "b"]]) == []
    found = paired_differences(
        [
            *runs("a", 0.1, 0.2, 0.7),
            *runs("same", 0.1, 0.2, 0.7),
            *runs("shifted", 0.4, 0.5, 1.0),
            *runs("lost", 0.3, 0.1, math.nan, diverged=True),
            *runs("survivor", 0.3, math.nan, math.inf),
            *runs("other", 0.4, 0.3, metric="test/loss"),
        ],
        [["a", "same", "shifted", "lost", "survivor", "other"]],
    )
    assert [(each.summary.config, round(each.summary.mean, 9), math.isnan(each.p)) for each in found] == [
        ("same", 0.0, True),
        ("shifted", 0.3, True),
        ("lost", 0.05, True),
    ]
    assert str(found[-1].summary).endswith("(1 of 3 diverged)")


def test_the_best_is_found_in_the_direction_of_the_metric_in_each_group() -> None:
    found = [
        *runs("a", 0.5, 0.7),
        *runs("b", 0.8, 0.8),
        *runs("survivors", 0.9, math.nan),
        *runs("c", 0.1, 0.1),
        *runs("d", 0.1, 0.1),
        *(each for name, value in (("a", 1.0), ("b", 2.0)) for each in runs(name, value, value, metric="test/loss")),
        *(each for name, value in (("a", 1.0), ("b", 2.0)) for each in runs(name, value, value, metric="test/steps")),
    ]
    best = find_best(summarise(found), [["a", "b", "survivors"], ["c", "d"]])
    assert best == {("b", "test/accuracy"), ("a", "test/loss")}
