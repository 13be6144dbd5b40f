import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.early_learning.curve import (
    LearningCurve,
    curve_slope,
    detect_end,
    end_of_early_learning,
    fit_learning_curve,
    learning_curve,
    relative_slope_change,
    start_shift,
)
from tests.callbacks.early_learning.scripted import authors_update_epoch

CURVES = [LearningCurve(a, b, c) for a in (0.4, 0.9) for b in (0.5, 0.8, 1.0) for c in (0.7, 3.0)]


@pytest.mark.parametrize("curve", CURVES)
def test_the_curve_starts_at_zero_rises_and_has_the_stated_slope(curve: LearningCurve) -> None:
    t = np.linspace(1, 10, 19)
    assert learning_curve(0.0, *curve) == 0
    assert (np.diff(learning_curve(t, *curve)) > 0).all()
    h, u = 1e-4, t + 1e-6
    derivative = (learning_curve(u + h, *curve) - learning_curve(u - h, *curve)) / (2 * h)
    # a difference quotient cannot be more accurate than the rounding error of f, about 1e-16, divided by h
    np.testing.assert_allclose(curve_slope(t, *curve), derivative, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("missing", [[], [3, 11]])
@pytest.mark.parametrize("curve", CURVES)
def test_the_fit_recovers_the_curve_it_was_sampled_from(curve: LearningCurve, missing: list[int]) -> None:
    values = learning_curve(np.linspace(0, 40, 40), *curve)
    values[missing] = math.nan  # other records keep their positions if one is missing
    found = fit_learning_curve(values, 40)
    assert found is not None
    np.testing.assert_allclose(found, curve, atol=1e-2)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 1), st.floats(0.1, 1), st.floats(0.1, 10))
def test_the_relative_slope_change_starts_at_zero_and_never_falls(a: float, b: float, c: float) -> None:
    change = relative_slope_change(np.arange(1, 50), LearningCurve(a, b, c))
    assert change[0] == 0
    assert (np.diff(change) >= 0).all()
    assert change[-1] <= 1


@pytest.mark.parametrize(("c", "r"), [(3.0, 0.9), (1.5, 0.9), (6.0, 0.5)])
def test_an_exponential_curve_ends_at_the_closed_form_epoch(c: float, r: float) -> None:
    """With b = 1, the relative change at epoch e is 1 - exp(-(e - 1) / c), which exceeds r if e > 1 - c log(1 - r)."""
    expected = math.floor(1 - c * math.log(1 - r)) + 1
    num_records = 25
    values = learning_curve(np.linspace(0, num_records, num_records), 0.8, 1.0, c)
    detection = detect_end(values, epochs_per_record=1.0, r=r, horizon=100, min_jump=None)
    assert detection is not None
    assert detection.end == expected


def test_records_between_epochs_give_the_end_in_epochs() -> None:
    per_record = 0.25
    values = learning_curve(np.linspace(0, 60 * per_record, 60), 0.8, 1.0, 3.0)
    detection = detect_end(values, epochs_per_record=per_record, r=0.9, horizon=16, min_jump=None)
    assert detection is not None
    assert detection.end == 8


def test_a_late_start_moves_the_end_by_as_many_records() -> None:
    values = learning_curve(np.linspace(0, 20, 20), 0.8, 0.9, 2.0)
    assert start_shift(values, 0.1) == 0
    prompt = detect_end(values, 1.0, r=0.9, horizon=60, min_jump=0.1)
    late = detect_end(np.concatenate([np.full(7, 0.002), values]), 1.0, r=0.9, horizon=60, min_jump=0.1)
    assert prompt is not None
    assert late is not None
    assert late.start == 7
    assert late.end - prompt.end == pytest.approx(7, abs=1)


def test_a_late_start_in_records_between_epochs_moves_the_end_by_their_epochs() -> None:
    values = learning_curve(np.linspace(0, 15, 60), 0.8, 1.0, 3.0)
    late = detect_end(np.concatenate([np.full(8, 0.002), values + 0.2]), 0.25, r=0.9, horizon=16, min_jump=0.1)
    assert late is not None
    assert (late.start, late.end) == (7, end_of_early_learning(late.curve, 0.9, 16) + 7 * 0.25)


def test_a_curve_without_a_jump_never_ends() -> None:
    values = np.linspace(0.02, 0.95, 30)  # rises by less than 0.1 in each step
    assert all(detect_end(values[: e + 1], 1.0, r=0.9, horizon=30, min_jump=0.1) is None for e in range(30))


def test_the_threshold_has_its_limits_and_a_flat_curve_no_end() -> None:
    """No relative change exceeds r = 1, so the horizon is reported; with r = 0, it is the first possible epoch, 2."""
    for curve in CURVES:
        assert end_of_early_learning(curve, r=1.0, horizon=30) == 30
        assert end_of_early_learning(curve, r=0.0, horizon=30) == 2
    for curve in (LearningCurve(0.0, 1.0, 1.0), LearningCurve(0.5, 0.0, 1.0), LearningCurve(0.5, 1.0, 0.0)):
        assert end_of_early_learning(curve, r=0.9, horizon=30) is None


@pytest.mark.parametrize(
    "values",
    [[], [0.1], [0.1, 0.4], [math.nan] * 12, [math.nan, 0.3, math.nan, 0.4, math.nan]],
    ids=["empty", "one", "two", "never seen", "seen twice"],
)
def test_nothing_is_said_about_curves_that_say_nothing(values: list[float]) -> None:
    assert detect_end(values, 1.0, r=0.9, horizon=30, min_jump=None) is None


@pytest.mark.parametrize("level", [0.0, 0.002])
def test_a_category_that_is_never_learned_never_ends(level: float) -> None:
    for epoch in range(29):
        detection = detect_end([level * (e % 2) for e in range(epoch + 1)], 1.0, r=0.9, horizon=30, min_jump=0.1)
        assert detection is None or epoch < detection.end


def test_a_fit_that_does_not_converge_is_no_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("maximum number of function evaluations is exceeded")

    monkeypatch.setattr("callbacks.early_learning.curve.curve_fit", fail)
    assert fit_learning_curve(np.linspace(0, 1, 10), 10) is None


@pytest.mark.parametrize("shift", [False, True])
def test_detection_agrees_with_the_rule_on_noisy_curves(shift: bool) -> None:
    random = np.random.default_rng(0)
    for _ in range(10):
        a, b, c = random.uniform(0.3, 0.9), random.uniform(0.5, 1), random.uniform(0.5, 3)
        values = learning_curve(np.arange(24) + 0.5, a, b, c) + random.normal(0, 0.01, 24)
        values = np.concatenate([np.full(3 * shift, 0.001), values])
        for length in range(10, len(values)):
            detection = detect_end(values[:length], 1.0, r=0.9, horizon=40, min_jump=0.1 if shift else None)
            if length - start_shift(values[:length], 0.1) * shift >= 3:
                assert detection is not None
                assert detection.end == authors_update_epoch(values[:length], 0.9, 40, shift=shift)
