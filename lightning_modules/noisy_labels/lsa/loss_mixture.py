"""Two modes of the losses of a training set: a mixture of two normal distributions in one dimension.

Wrongly labelled examples are learned later than others, so their losses form a mode of their own above that of the
rest. Losses are first rescaled to [0, 1], which makes the result independent of their scale.

Source: Arazo, Ortego, Albert, O'Connor and McGuinness, Unsupervised Label Noise Modeling and Loss Correction, ICML
2019, arXiv 1904.11238; with normal components as in DivideMix (Li, Socher and Hoi, ICLR 2020, arXiv 2002.07394).
"""

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray


def min_max(values: ArrayLike) -> NDArray[np.float64]:
    """(v - min v) / (max v - min v), in [0, 1], of `[N]`; zeros where all values are equal.

    Infinite values count as the greatest finite one.

    Raises:
        ValueError: if a value is NaN, or none is finite.
    """
    v = np.asarray(values, dtype=np.float64)
    if np.isnan(v).any():
        raise ValueError(f"losses must be numbers, and {int(np.isnan(v).sum())} of {len(v)} are NaN")
    finite = v[np.isfinite(v)]
    if len(finite) == 0:
        raise ValueError(f"none of {len(v)} losses is finite")
    lowest, highest = finite.min(), finite.max()
    if highest == lowest:
        return np.zeros_like(v)
    return np.clip((v - lowest) / (highest - lowest), 0.0, 1.0)


def high_mode_probability(
    losses: ArrayLike, max_iter: int = 10, tol: float = 1e-2, reg_covar: float = 5e-4, random_state: int = 0
) -> NDArray[np.float64]:
    """Compute how probably each loss belongs to the mode with the greater mean.

    Args:
        losses: `[N]`.
        max_iter: iterations of expectation maximisation.
        tol: gain of the mean log-likelihood at which they stop.
        reg_covar: added to the variances, in units of the rescaled losses.
        random_state: of the initialisation.

    Returns:
        `[N]`, in [0, 1]; zeros where all losses are equal or there are fewer than two, as there is one mode then.

    Raises:
        ValueError: if a loss is NaN.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    scaled = min_max(losses)[:, None]
    if len(scaled) < 2 or scaled.max() == 0:
        return np.zeros(len(scaled))
    mixture = GaussianMixture(
        n_components=2, max_iter=max_iter, tol=tol, reg_covar=reg_covar, random_state=random_state
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is part of the method
        mixture.fit(scaled)
    return mixture.predict_proba(scaled)[:, int(np.argmax(mixture.means_[:, 0]))]
