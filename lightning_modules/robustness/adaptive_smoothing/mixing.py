"""The mixture of an accurate and a robust classifier's probabilities, and what can be certified of it.

    f(x) = log((1 - alpha) softmax(s_g g(x)) + alpha softmax(s_h h(x))),   alpha in [0, 1].

With h the robust classifier's probabilities, f gives class y wherever h_y - h_i >= (1 - alpha) / alpha for all other i,
whatever g says. That takes alpha > 1/2: up to there g can outvote h. Hence two radii around x, with y = argmax h(x);
a negative one means none:

    Lipschitz:   r = min_i [alpha (h_y - h_i) + alpha - 1] / (alpha (L_y + L_i)),   L_i the constant of h_i;
    smoothing:   r = sigma/2 [Phi^-1(alpha h_y) - Phi^-1(alpha h_2 + 1 - alpha)],   h(x) = E[k(x + sigma e)], k in
                 [0, 1]^K, h_2 the second largest.

g is evaluated at x itself and is not smoothed. With h_2 <= 1 - h_y the second radius is sigma Phi^-1(alpha h_y). It is
not the most that can be proved: within r of x, h_y is at least Phi(Phi^-1(h_y) - r / sigma) (Cohen et al., 2019), and
alpha h_y > 1/2 is enough for f to give y, hence

    tight:       r = sigma [Phi^-1(h_y) - Phi^-1(1 / (2 alpha))],

which a half-space h and the worst g attain.

Source: Bai, Anderson, Kim and Sojoudi, Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
Smoothing, SIAM Journal on Mathematics of Data Science 2024, arXiv 2301.12554. The authors' code puts empirical
frequencies into the second radius; a certificate needs confidence bounds.
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor


class Mixed(NamedTuple):
    """What a mixture makes of images."""

    log_probability: Tensor
    """`[B, K]`: f, whose softmax is the mixture."""
    gamma: Tensor
    """`[B]`: alpha before the sigmoid (and before the range it is brought to); infinite for alpha 0 and 1."""
    alpha: Tensor
    """`[B]`, in [0, 1]: the weight of the robust classifier."""


@runtime_checkable
class MixedClassifier(Protocol):
    """A module whose mixture can be evaluated at any alpha. Used by the curve of accuracy and robustness."""

    num_classes: int
    chooses_alpha: bool
    """Whether it also has a learned alpha for each image."""

    def mix(self, image: Tensor, alpha: float | None = None) -> Mixed:
        """The mixture of images `[B, C, H, W]` in [0, 1] with a given alpha, or with the learned one."""
        ...


def log_mixture(
    accurate: Tensor, robust: Tensor, alpha: float | Tensor, complement: float | Tensor | None = None
) -> Tensor:
    """f from the logits of both classifiers, in float32 or better; nothing underflows on the way.

    Args:
        accurate: `[B, K]`: s_g g(x).
        robust: `[B, K]`: s_h h(x).
        alpha: weight of `robust`, in [0, 1]: a number, or `[B]`.
        complement: 1 - alpha, of the same kind, where it is known more precisely than by subtraction.

    Returns:
        `[B, K]`: log-probabilities.
    """
    dtype = torch.promote_types(torch.promote_types(accurate.dtype, robust.dtype), torch.float32)
    log_g, log_h = accurate.to(dtype).log_softmax(dim=1), robust.to(dtype).log_softmax(dim=1)
    if complement is None:
        complement = 1 - alpha
    weights = [torch.as_tensor(weight, dtype=dtype, device=log_g.device) for weight in (complement, alpha)]
    log_1_alpha, log_alpha = (weight.log().unsqueeze(-1) for weight in weights)
    return torch.logaddexp(log_g + log_1_alpha, log_h + log_alpha)


def needed_margin(alpha: float) -> float:
    """The margin (1 - alpha) / alpha of h at which g can no longer change the class; infinite for alpha 0.

    For choosing alpha by the margins of a robust classifier; no module calls it.
    """
    return (1 - alpha) / alpha if alpha > 0 else math.inf


def lipschitz_radius(probability: Tensor, lipschitz: float | Tensor, alpha: float) -> Tensor:
    """Radius within which the mixture gives argmax h, in the norm in which the constants hold.

    For robust classifiers whose Lipschitz constants are known, which those of this project's configurations are not: no
    module calls it. Smoothed ones are certified through `AdaptiveSmoothing.certified_radius`.

    Args:
        probability: `[B, K]`: h(x), in [0, 1].
        lipschitz: of each h_i, `[K]`, or one for all. For h smoothed with Gaussian noise of level sigma it is
            1 / (sigma sqrt(2 pi)) in l2; the authors' code has twice that.
        alpha: weight of h, in [0, 1].

    Returns:
        `[B]`: negative for none.
    """
    constant = torch.as_tensor(lipschitz, dtype=probability.dtype, device=probability.device).expand_as(probability)
    best = probability.argmax(dim=1, keepdim=True)
    margin = probability.gather(1, best) - probability
    radius = (alpha * margin + alpha - 1) / (alpha * (constant.gather(1, best) + constant))
    return radius.scatter(1, best, math.inf).amin(dim=1)


def smoothing_radius(first: ArrayLike, second: ArrayLike, alpha: float, sigma: float) -> NDArray[np.float64]:
    """l2 radius within which a mixture with a smoothed robust classifier keeps the class of h.

    Args:
        first: h_y or a lower bound of it, in [0, 1].
        second: the second largest h_i or an upper bound of it, in [0, 1]; where h_y alone is bounded, 1 - `first`.
        alpha: weight of h, in [0, 1].
        sigma: standard deviation of the noise, in pixel units.

    Returns:
        In pixel units: negative for none. It is never positive for alpha up to 1/2.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    # Phi^-1(alpha h_2 + 1 - alpha) is -Phi^-1(alpha (1 - h_2)), which loses no digits near 1.
    return sigma / 2 * (ndtri(alpha * first) + ndtri(alpha * (1 - second)))


def tight_smoothing_radius(first: ArrayLike, alpha: float, sigma: float) -> NDArray[np.float64]:
    """The largest l2 radius that follows from h_y alone, for a mixture with a smoothed robust classifier.

    Args:
        first: h_y or a lower bound of it, in [0, 1].
        alpha: weight of h, in [0, 1].
        sigma: standard deviation of the noise, in pixel units.

    Returns:
        In pixel units: negative for none.
    """
    needed = min(1 / (2 * alpha), 1.0) if alpha > 0 else 1.0
    return sigma * (np.minimum(ndtri(first), 1e9) - ndtri(needed))
