"""Exponents of power laws, y = c x^b, with their intervals.

    log y = log c + b log x + noise

The seeds of a sweep share what does not depend on x, such as the split of the data, so their points are not independent
of each other, while the seeds are: b is fitted to each seed alone, and the interval is Student's for the mean of the
seeds' exponents. Of one seed it is that of the regression, which takes the deviations from the line to be independent.

A point that has no value, as of a run that diverged or never reached what is measured, is censored: the other seeds at
this x are those that happened to do better, so that x is left out whole.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

FEWEST = 3
"""Values of x that an exponent needs."""


@dataclass(frozen=True)
class Exponent:
    """A fitted power law.

    Args:
        exponent: b.
        error: its standard error.
        low, high: its interval.
        factor: c.
        used: values of x that the fit rests on.
        left_out: values of x at which a seed has no positive and finite value.
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
        """Evaluate the law."""
        import numpy as np

        return self.factor * np.asarray(x, float) ** self.exponent


def fitted_exponent(x: "ArrayLike", y: "ArrayLike", confidence: float = 0.95) -> Exponent:
    """Fit the exponent of y = c x^b.

    Args:
        x: positive values `[n]`.
        y: values `[n]`, or of several seeds `[seeds, n]`; NaN, infinite or not positive where there is none.
        confidence: probability of the interval, in (0, 1).

    Returns:
        The fit, with its standard error and interval over seeds.

    Raises:
        ValueError: if x has values that are not positive, or fewer than `FEWEST` different ones have a value of every
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
            f"no fit: {len(used)} points have a positive value of every seed, and an exponent needs {FEWEST}"
        )
    u, v = np.log(x[whole]), np.log(every[:, whole])
    centred = u - u.mean()
    slopes = v @ centred / (centred @ centred)
    if len(slopes) > 1:
        error, freedom = float(slopes.std(ddof=1) / math.sqrt(len(slopes))), len(slopes) - 1
    else:  # scipy's linregress gives NaN where all y are one
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
