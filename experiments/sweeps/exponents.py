"""Fit the exponents b of power laws y = c x^b, with confidence intervals.

    log y = log c + b log x + noise

The points of one seed are not independent, because they share everything that does not depend on x, such as the data
split. Points of different seeds are independent. Therefore one exponent b is fitted per seed, and the t-interval for
the mean of these exponents is reported. With a single seed, the interval is the confidence interval of linear
regression, which assumes independent deviations from the line.

A value y is missing if a run diverged or never reached a threshold. If the value at some x is missing for one seed,
this x is left out for all seeds, because the remaining seeds would be a biased selection.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

FEWEST = 3
"""Minimum number of values of x for a fit."""


@dataclass(frozen=True)
class Exponent:
    """A fitted power law.

    Args:
        exponent: fitted exponent b.
        error: standard error of b.
        low: lower end of the confidence interval of b.
        high: upper end of the confidence interval of b.
        factor: fitted factor c.
        used: values of x that were used in the fit.
        left_out: values of x for which at least one seed has no positive, finite value of y.
        seeds: number of seeds.
    """

    exponent: float
    error: float
    low: float
    high: float
    factor: float
    used: tuple[float, ...]
    left_out: tuple[float, ...]
    seeds: int

    def __str__(self) -> str:
        return f"{self.exponent:.3g} ± {self.error:.1g} [{self.low:.3g}, {self.high:.3g}]"

    def __call__(self, x: "ArrayLike") -> "NDArray[np.float64]":
        """Evaluate the power law at x."""
        import numpy as np

        return self.factor * np.asarray(x, float) ** self.exponent


def fitted_exponent(x: "ArrayLike", y: "ArrayLike", confidence: float = 0.95) -> Exponent:
    """Fit the exponent of y = c x^b.

    Args:
        x: positive values `[n]`.
        y: values `[n]`, or `[seeds, n]` for several seeds. Values that are NaN, infinite or not positive are treated as
            missing.
        confidence: confidence level, in (0, 1).

    Returns:
        The fit, with the standard error and confidence interval of b over seeds.

    Raises:
        ValueError: if a value of x is not positive, or if fewer than `FEWEST` values of x have a valid y for every
            seed.
    """
    import numpy as np
    from scipy.stats import t

    x = np.asarray(x, float)
    every = np.atleast_2d(np.asarray(y, float))
    if x.ndim != 1 or every.shape[1:] != x.shape:
        raise ValueError(f"x must be [n] and y [n] or [seeds, n], got {list(x.shape)} and {list(every.shape)}")
    if not (np.isfinite(x) & (x > 0)).all():
        raise ValueError(f"x must be positive, got {x.min():g}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    left_out = np.unique(x[~(np.isfinite(every) & (every > 0)).all(axis=0)])
    whole = ~np.isin(x, left_out)
    used = np.unique(x[whole])
    if len(used) < FEWEST:
        raise ValueError(
            f"no fit: {len(used)} points have a positive value for every seed, but an exponent needs {FEWEST}"
        )
    u, v = np.log(x[whole]), np.log(every[:, whole])
    centred = u - u.mean()
    slopes = v @ centred / (centred @ centred)
    if len(slopes) > 1:
        error, freedom = float(slopes.std(ddof=1) / math.sqrt(len(slopes))), len(slopes) - 1
    else:  # linregress of scipy returns NaN if all y are equal
        rest, freedom = v[0] - v[0].mean() - slopes[0] * centred, len(u) - 2
        error = math.sqrt(rest @ rest / freedom / (centred @ centred))
    exponent = float(slopes.mean())
    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    factor = float(np.exp(v.mean() - exponent * u.mean()))
    return Exponent(
        exponent,
        error,
        exponent - half,
        exponent + half,
        factor,
        tuple(used.tolist()),
        tuple(left_out.tolist()),
        len(slopes),
    )
