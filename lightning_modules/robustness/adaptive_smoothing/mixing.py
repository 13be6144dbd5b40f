"""Mixture of the probabilities of an accurate and a robust classifier, and the certified radius of the mixture.

    f(x) = log((1 - alpha) softmax(s_g g(x)) + alpha softmax(s_h h(x))),   alpha in [0, 1].

From here on, h denotes the probabilities of the robust classifier. If h_y - h_i >= (1 - alpha) / alpha for every other
class i, then f predicts y for any g. The condition can only hold for alpha > 1/2; otherwise g can outvote h. If the
robust classifier is smoothed and y = argmax h(x), this condition gives a certified radius around x. A negative radius
means that there is no certificate:

    Lipschitz:   r = min_{i != y} [alpha (h_y - h_i) + alpha - 1] / (alpha (L_y + L_i)),  L_i Lipschitz constant of h_i

    smoothing:   r = sigma/2 [Phi^-1(alpha h_y) - Phi^-1(alpha h_2 + 1 - alpha)],   h(x) = E[k(x + sigma e)], k in
                 [0, 1]^K, h_2 the second largest.

The accurate classifier g is evaluated at x, without smoothing. With the bound h_2 <= 1 - h_y, the smoothing radius
becomes sigma Phi^-1(alpha h_y). However, a larger radius can be proved: within distance r of x, h_y is at least
Phi(Phi^-1(h_y(x)) - r / sigma) (Cohen et al., 2019), and alpha h_y > 1/2 is sufficient for f to predict y. Hence

    tight:       r = sigma [Phi^-1(h_y) - Phi^-1(1 / (2 alpha))],

The tight radius is attained if h is the smoothed indicator of a half-space and g is the worst case. If h is smoothed,
each h_i has the l2 Lipschitz constant 1 / (sigma sqrt(2 pi)). With these constants, the Lipschitz radius never exceeds
the tight radius.

Source: Bai, Anderson, Kim and Sojoudi, Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
Smoothing, SIAM Journal on Mathematics of Data Science 2024, arXiv 2301.12554. The authors' code computes the smoothing
radius from empirical frequencies. A certificate needs confidence bounds instead. The authors' code also uses the larger
Lipschitz constant sqrt(2 / pi) / sigma.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor


def log_mixture(
    accurate: Tensor, robust: Tensor, alpha: float | Tensor, complement: float | Tensor | None = None
) -> Tensor:
    """Compute the mixture f in log space from the logits of both classifiers, in float32 or a higher precision.

    Args:
        accurate: scaled logits s_g g(x), `[B, K]`.
        robust: scaled logits s_h h(x), `[B, K]`.
        alpha: weight of `robust`, in [0, 1]; a single number, or one number per image, `[B]`.
        complement: value of 1 - alpha, of the same type as `alpha`. Pass it if computing 1 - alpha would lose
            precision.

    Returns:
        Log-probabilities `[B, K]`.
    """
    dtype = torch.promote_types(torch.promote_types(accurate.dtype, robust.dtype), torch.float32)
    log_g, log_h = accurate.to(dtype).log_softmax(dim=1), robust.to(dtype).log_softmax(dim=1)
    if complement is None:
        complement = 1 - alpha
    weights = [torch.as_tensor(weight, dtype=dtype, device=log_g.device) for weight in (complement, alpha)]
    log_1_alpha, log_alpha = (weight.log().unsqueeze(-1) for weight in weights)
    return torch.logaddexp(log_g + log_1_alpha, log_h + log_alpha)


def lipschitz_radius(
    first: ArrayLike, others: ArrayLike, alpha: float, lipschitz_first: ArrayLike, lipschitz_others: ArrayLike
) -> NDArray[np.float64]:
    """Compute the radius within which a mixture keeps the class of its robust classifier h, which is Lipschitz.

    The radius is measured in the norm for which the Lipschitz constants hold.

    Args:
        first: probability h_y, or a lower bound of it, `[...]`, in [0, 1].
        others: probabilities h_i of the other classes, or upper bounds of them, `[..., K - 1]`.
        alpha: weight of h, in (0, 1].
        lipschitz_first: Lipschitz constant L_y, broadcast to `first`.
        lipschitz_others: Lipschitz constants L_i, broadcast to `others`.

    Returns:
        The radius `[...]`; a negative radius means that there is no certificate. The radius is never positive for alpha
        <= 1/2.
    """
    first, others = np.asarray(first, dtype=float)[..., None], np.asarray(others, dtype=float)
    slope = np.asarray(lipschitz_first, dtype=float)[..., None] + np.asarray(lipschitz_others, dtype=float)
    return ((alpha * (first - others) + alpha - 1) / (alpha * slope)).min(axis=-1)


def smoothed_lipschitz(sigma: float) -> float:
    """Compute the l2 Lipschitz constant of E[k(x + sigma e)] for k in [0, 1]: 1 / (sigma sqrt(2 pi))."""
    return 1 / (sigma * math.sqrt(2 * math.pi))


def smoothing_radius(first: ArrayLike, second: ArrayLike, alpha: float, sigma: float) -> NDArray[np.float64]:
    """Compute the l2 radius within which a mixture predicts the same class as its smoothed robust classifier h.

    Args:
        first: probability h_y, or a lower bound of it, in [0, 1].
        second: second largest probability h_2, or an upper bound of it, in [0, 1]. If only a lower bound of h_y is
            known, pass 1 - `first`.
        alpha: weight of h, in [0, 1].
        sigma: standard deviation of the noise, in pixel units.

    Returns:
        The radius in pixel units; a negative radius means that there is no certificate. The radius is never positive
        for alpha <= 1/2.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    # Phi^-1(alpha h_2 + 1 - alpha) equals -Phi^-1(alpha (1 - h_2)), and the latter avoids cancellation near 1.
    return sigma / 2 * (ndtri(alpha * first) + ndtri(alpha * (1 - second)))


def tight_smoothing_radius(first: ArrayLike, alpha: float, sigma: float) -> NDArray[np.float64]:
    """Compute the largest l2 radius that follows from h_y alone, for a mixture whose robust classifier h is smoothed.

    Args:
        first: probability h_y, or a lower bound of it, in [0, 1].
        alpha: weight of h, in [0, 1].
        sigma: standard deviation of the noise, in pixel units.

    Returns:
        The radius in pixel units; a negative radius means that there is no certificate.
    """
    needed = min(1 / (2 * alpha), 1.0) if alpha > 0 else 1.0
    return sigma * (np.minimum(ndtri(first), 1e9) - ndtri(needed))
