"""Detect the end of early learning from a curve fitted to the agreement of training predictions with labels.

A network that is trained on partly wrong labels first learns the right pattern, and then memorises the errors. ADELE
records the network's fit to the labels (the agreement of predictions and labels) at L equally spaced times. To these
records y_0 ... y_{L-1}, it fits the curve

    f(t) = a (1 - exp(-t^b / c)),    0 <= a <= 1, 0 <= b <= 1, c >= 0.

Early learning ends at the first epoch e at which the relative change of slope, rc(e) = |f'(e) - f'(1)| / f'(1), exceeds
r. Because b <= 1, the slope decreases over time, and rc grows from 0 towards 1.

Source: Liu et al., Adaptive Early-Learning Correction for Segmentation from Noisy Annotations, CVPR 2022, arXiv
2110.03740, and its code (its VOC rule and, with the shift, its SegTHOR rule).
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeWarning, curve_fit


class LearningCurve(NamedTuple):
    """Parameters of f(t) = a (1 - exp(-t^b / c)), where t = 0 is the first fitted record."""

    a: float
    """Asymptotic level of the fit, in [0, 1]."""
    b: float
    """Exponent, in [0, 1]."""
    c: float
    """Time scale to the power b; at least 0."""


def learning_curve(t: ArrayLike, a: float, b: float, c: float) -> NDArray[np.float64]:
    """Evaluate f(t) = a (1 - exp(-t^b / c)) for t >= 0."""
    return a * (1 - np.exp(-(np.asarray(t, dtype=np.float64) ** b) / c))


def curve_slope(t: ArrayLike, a: float, b: float, c: float) -> NDArray[np.float64]:
    """Evaluate |f'(t)| = a b / c exp(-u^b / c) u^(b-1) at u = t + 1e-6. The offset keeps the slope finite at t = 0."""
    u = np.asarray(t, dtype=np.float64) + 1e-6
    return np.abs(np.divide(a * b, c) * np.exp(-(u**b) / c) * u ** (b - 1))


def relative_slope_change(epoch: ArrayLike, curve: LearningCurve) -> NDArray[np.float64]:
    """Evaluate rc(e) = |f'(e) - f'(1)| / f'(1); values above 1 are set to 0, as in the authors' code.

    The result is in [0, 1], and 0 at epoch 1. If the slope at epoch 1 is 0, the result is NaN at all other epochs.
    """
    with np.errstate(all="ignore"):
        change = np.abs(curve_slope(epoch, *curve) - curve_slope(1, *curve)) / curve_slope(1, *curve)
    # Rounding errors must not push the change at epoch 1 above r = 0.
    return np.where((change > 1) | (np.asarray(epoch) == 1), 0.0, change)


def start_shift(values: ArrayLike, min_jump: float) -> int:
    """Count the records before the first increase of at least `min_jump`, because rare categories are learned later.

    Without such an increase, the count is L - 1, where L is the number of records.
    """
    jumps = np.diff(np.asarray(values, dtype=np.float64)) >= min_jump
    return int(jumps.argmax()) if jumps.any() else len(jumps)


def fit_learning_curve(values: ArrayLike, epochs: float) -> LearningCurve | None:
    """Fit f by weighted least squares. The last record has 100 times the weight of the first record.

    As in the authors' code, the records are placed at L equally spaced times from 0 to `epochs`, although the first
    record is later than the start of training. The fit and the detected end depend on this placement.

    Args:
        values: the fit to the labels at each record, `[L]`, in [0, 1]. Missing records are NaN.
        epochs: number of epochs between two records, multiplied by L.

    Returns:
        The fitted curve, or None if fewer than 3 records are known, the fit does not converge, or a parameter is not
        finite.
    """
    y = np.asarray(values, dtype=np.float64)
    t = np.linspace(0, epochs, len(y))
    sigma = np.geomspace(1, 0.1, len(y))
    known = np.isfinite(y)
    if known.sum() < 3:
        return None
    options: Any = {"p0": (1, 1, 1), "method": "trf", "bounds": ([0, 0, 0], [1, 1, np.inf]), "absolute_sigma": True}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # about the covariance, which is not used
        try:
            parameters, _ = curve_fit(learning_curve, t[known], y[known], sigma=sigma[known], **options)
        except RuntimeError:
            return None
    return LearningCurve(*map(float, parameters)) if np.isfinite(parameters).all() else None


def end_of_early_learning(curve: LearningCurve, r: float, horizon: int) -> int | None:
    """Return the first epoch in 1 ... horizon - 1 at which the change of slope exceeds r; if there is none, `horizon`.

    Epochs are counted from t = 0 of the curve. For a flat curve, whose change of slope is undefined, the result is
    None.
    """
    change = relative_slope_change(np.arange(1, horizon), curve)
    with np.errstate(all="ignore"):
        if np.isnan(change).any() or not curve_slope(1, *curve) > 0:
            return None
    return int((change <= r).sum()) + 1


class EarlyLearningEnd(NamedTuple):
    """Estimate of when the early learning of a category ends, based on the records so far."""

    curve: LearningCurve
    """Curve fitted to the records from `start` on."""
    start: int
    """Number of records before the category began to be learned."""
    end: float
    """Epoch at which early learning ends, counted from the start of training."""


def detect_end(
    values: ArrayLike, epochs_per_record: float, r: float, horizon: int, min_jump: float | None
) -> EarlyLearningEnd | None:
    """Find the end of early learning of one category.

    At the end of epoch e, counted from 0, early learning has ended if e >= `end` of the result.

    Args:
        values: the fit to the labels at each record so far, `[L]`, in [0, 1]. Missing records are NaN.
        epochs_per_record: number of epochs between two records.
        r: threshold on the relative change of slope, in [0, 1].
        horizon: number of epochs n in which the end is searched for.
        min_jump: increase of the fit that marks the start of learning. Records before this increase are dropped. None
            keeps all records.

    Returns:
        The end of early learning, or None if there are fewer than 3 records since the start of learning, the fit does
        not converge, or the curve is flat.
    """
    values = np.asarray(values, dtype=np.float64)
    start = 0 if min_jump is None else start_shift(values, min_jump)
    curve = fit_learning_curve(values[start:], (len(values) - start) * epochs_per_record)
    if curve is None:
        return None
    end = end_of_early_learning(curve, r, horizon)
    return None if end is None else EarlyLearningEnd(curve, start, end + start * epochs_per_record)
