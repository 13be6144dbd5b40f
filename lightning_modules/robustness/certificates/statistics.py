"""Confidence bounds of vote probabilities, and summary statistics of randomised-smoothing certificates.

The smoothed classifier g is defined by a base classifier f of images in [0, 1] and by Gaussian noise e:

    g(x) = argmax_c P(f(x + sigma e) = c),   e ~ N(0, I).

Let A = g(x). If P(f(x + sigma e) = A) >= p > 1/2, then g is constant within the l2 radius sigma Phi^-1(p) around x. The
probability has to be estimated from votes; p is therefore a lower confidence bound. For a fixed number of samples, this
is the Clopper-Pearson bound. An anytime bound is valid for all numbers of samples simultaneously; with this bound,
sampling may stop at any time. If the mean softmax over noisy images replaces the votes, p is the empirical Bernstein
bound.

Source: Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019, arXiv
1902.02918; Voracek, Treatment of Statistical Estimation Problems in Randomized Smoothing for Adversarial Robustness,
NeurIPS 2024, arXiv 2406.17830.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betaincc, betaincinv, betaln, ndtri, xlog1py, xlogy
from scipy.stats import binom, binomtest

ABSTAIN = -1
"""Value of a prediction if the classifier abstains."""


def clopper_pearson_lower(hits: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """Compute the exact (Clopper-Pearson) lower confidence bound of a probability, for a fixed number of samples.

    The published code computes this bound, too: as the lower end of the two-sided interval at level 2 alpha.

    Args:
        hits: number of successes, of any shape, in [0, n]; fractions are allowed.
        n: number of samples.
        alpha: maximum probability, in (0, 1), that the bound exceeds the true value.

    Returns:
        Bounds, with the shape of `hits`.
    """
    hits = np.asarray(hits, dtype=float)
    return np.where(hits == 0, 0.0, betaincinv(np.maximum(hits, 1e-12), n - hits + 1, alpha))


def clopper_pearson_upper(hits: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """Compute the exact (Clopper-Pearson) upper confidence bound for a probability.

    Arguments are the same as for `clopper_pearson_lower`.
    """
    return 1 - clopper_pearson_lower(n - np.asarray(hits, dtype=float), n, alpha)


def empirical_bernstein_lower(mean: ArrayLike, variance: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """Compute the empirical Bernstein lower confidence bound of the expected value of a score in [0, 1]:

    mean - sqrt(2 V ln(2/alpha) / n) - 7 ln(2/alpha) / (3 (n - 1))

    Args:
        mean: mean score of n independent samples.
        variance: sample variance V of the scores, with the divisor n - 1.
        n: number of samples, at least 2.
        alpha: maximum probability, in (0, 1), that the bound exceeds the expected value.

    Returns:
        Bounds, clamped to at least 0.

    Source: Maurer and Pontil, Empirical Bernstein Bounds and Sample Variance Penalization, COLT 2009, arXiv 0907.3740,
    Theorem 4.
    """
    mean, variance, log_term = np.asarray(mean, dtype=float), np.asarray(variance, dtype=float), math.log(2 / alpha)
    return np.maximum(mean - np.sqrt(2 * variance * log_term / n) - 7 * log_term / (3 * (n - 1)), 0.0)


def log_wealth(hits: ArrayLike, n: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Compute the log-wealth of a bettor who bets against the hypothesis that the probability is p.

    The bettor starts with wealth 1:

    W(p) = log B(k + 1/2, n - k + 1/2) - log B(1/2, 1/2) - k log p - (n - k) log(1 - p)

    If p is the true probability, then P(W(p) ever reaches log(1/a)) <= a by Ville's inequality.

    Args:
        hits: number k of successes so far.
        n: number of samples so far.
        p: hypothesised probability, in [0, 1].
    """
    hits, n, p = np.asarray(hits, dtype=float), np.asarray(n, dtype=float), np.asarray(p, dtype=float)
    return betaln(hits + 0.5, n - hits + 0.5) - math.log(math.pi) - xlogy(hits, p) - xlog1py(n - hits, -p)


def log_wealth_above(hits: ArrayLike, n: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Compute the log-wealth of a one-sided bettor, who bets only that the probability is above p.

    W+(p) = W(p) + log P(b > p | k, n) - log P(b > p),   where b has the prior Beta(1/2, 1/2)
    and, after n samples, the posterior Beta(k + 1/2, n - k + 1/2).

    exp W+(p) is a mixture of the likelihood ratios between q and p for all q > p. If the true probability is at most p,
    each ratio has an expected value of at most 1. Hence P(W+(p) ever reaches log(1/a)) <= a for every true probability
    up to p.
    """
    hits, n, p = np.asarray(hits, dtype=float), np.asarray(n, dtype=float), np.asarray(p, dtype=float)
    with np.errstate(divide="ignore"):
        after = np.log(betaincc(hits + 0.5, n - hits + 0.5, p))
        return log_wealth(hits, n, p) + after - np.log(betaincc(0.5, 0.5, p))


def _root_below(wealth: Callable[[float], float], highest: float, alpha: float) -> float:
    """Find the p in (0, highest) at which a decreasing wealth function falls to log(1/alpha)."""
    threshold = math.log(1 / alpha)
    lowest = highest * 0.5
    while wealth(lowest) < threshold:
        lowest *= 0.5
    return brentq(lambda p: wealth(p) - threshold, lowest, highest, xtol=1e-15, rtol=1e-14)


def anytime_lower(hits: float, n: int, alpha: float) -> float:
    """Compute the lower end of the anytime-valid confidence interval {p : W(p) < log(1/alpha)}.

    With a probability of at least 1 - alpha, the intervals for all n simultaneously contain the true value.

    Args:
        hits: number of successes so far; fractions are allowed.
        n: number of samples so far.
        alpha: maximum probability that at least one interval of the sequence misses the true value, in (0, 1).
    """
    if hits == 0:
        return 0.0
    highest = hits / n if hits < n else 1 - 1e-16
    return _root_below(lambda p: float(log_wealth(hits, n, p)), highest, alpha)


def anytime_upper(hits: int, n: int, alpha: float) -> float:
    """Compute the upper end of the anytime-valid confidence interval.

    Arguments are the same as for `anytime_lower`.
    """
    return 1 - anytime_lower(n - hits, n, alpha)


def one_sided_anytime_lower(hits: int, n: int, alpha: float) -> float:
    """Compute the one-sided anytime-valid lower bound: the smallest p with W+(p) < log(1/alpha).

    This bound is tighter than `anytime_lower`. With a probability of at least 1 - alpha, the bounds for all n
    simultaneously are at most the true value.
    """
    if hits == 0:
        return 0.0
    return _root_below(lambda p: float(log_wealth_above(hits, n, p)), min(hits / n, 1 - 1e-9), alpha)


def one_sided_anytime_upper(hits: int, n: int, alpha: float) -> float:
    """Compute the one-sided anytime-valid upper bound.

    Arguments are the same as for `one_sided_anytime_lower`.
    """
    return 1 - one_sided_anytime_lower(n - hits, n, alpha)


def gaussian_radius(p: float, sigma: float) -> float:
    """Compute the radius within which a class keeps the majority if its probability at the image is at least p.

    Args:
        p: lower bound of the probability, in [0, 1].
        sigma: standard deviation of the noise, in pixel units.

    Returns:
        Radius sigma Phi^-1(p), in pixel units. It is negative if p < 1/2; in this case, there is no certificate.
    """
    return float(sigma * ndtri(p))


def predict_or_abstain(votes: ArrayLike, alpha: float) -> int:
    """Return the class with the most votes, or abstain, as in the algorithm PREDICT.

    The votes for this class and for the runner-up must differ significantly, according to an exact two-sided binomial
    test.

    Args:
        votes: number of votes for each class, `[K]`.
        alpha: maximum probability that the returned class is not the class of g.

    Returns:
        The class, or `ABSTAIN` if the difference is not significant.
    """
    votes = np.asarray(votes)
    first, second = np.argsort(-votes, kind="stable")[:2]
    total = int(votes[first] + votes[second])
    if total == 0 or binomtest(int(votes[first]), total, 0.5).pvalue > alpha:
        return ABSTAIN
    return int(first)


def input_specific_draws(
    pilot_hits: Sequence[int],
    pilot_draws: int,
    n_max: int,
    step: int,
    alpha: float,
    pilot_alpha: float,
    max_loss: float,
    relative: bool,
    radius: Callable[[Sequence[float]], float],
) -> int:
    """Find the smallest number of samples that decreases the radius by at most `max_loss` in comparison with `n_max`.

    The class probability is estimated from pilot samples. The decrease of the radius must be at most `max_loss` for
    every probability in the two-sided confidence interval of this estimate. If the interval misses the true
    probability, the decrease can be larger. The certificate remains valid in any case, because it is computed from
    samples that are independent of the pilot samples. With several streams, the check moves all probabilities
    simultaneously from the lower to the upper ends of their intervals. Other combinations are not checked.

    Args:
        pilot_hits: number of votes for the selected class among the pilot samples, one number per stream.
        pilot_draws: number of pilot samples.
        n_max: maximum number of samples.
        step: the result is a multiple of this number, or `n_max`.
        alpha: maximum probability that the certificate is wrong.
        pilot_alpha: maximum probability that the interval misses the true probability.
        max_loss: maximum decrease of the radius, in pixel units, or as a fraction of the radius if `relative` is true.
        relative: whether `max_loss` is a fraction instead of a number of pixel units.
        radius: function that maps lower bounds of the probabilities, one per stream, to the certified radius.

    Source: Chen, Li, Yan, Li and Sheng, Input-Specific Robustness Certification for Randomized Smoothing, AAAI 2022,
    arXiv 2112.12084.
    """
    share = alpha / len(pilot_hits)
    lower = clopper_pearson_lower(pilot_hits, pilot_draws, pilot_alpha / 2)
    upper = clopper_pearson_upper(pilot_hits, pilot_draws, pilot_alpha / 2)
    paths = [lower + t * (upper - lower) for t in np.linspace(0, 1, 33)]

    def expected_radius(p: NDArray[np.float64], n: int) -> float:
        return max(radius(clopper_pearson_lower(p * n, n, share).tolist()), 0.0)

    longest = [expected_radius(p, n_max) for p in paths]
    wanted = [r * (1 - max_loss) if relative else r - max_loss for r in longest]
    enough, too_few = -(-n_max // step), 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if all(expected_radius(p, middle * step) >= r for p, r in zip(paths, wanted, strict=True)):
            enough = middle
        else:
            too_few = middle
    return min(enough * step, n_max)


def certified_accuracy(correct: ArrayLike, radius: ArrayLike, radii: ArrayLike) -> NDArray[np.float64]:
    """Compute the certified accuracy at each radius r.

    The certified accuracy at r is the fraction of images that are classified correctly and have a certified radius of
    at least r.

    Args:
        correct: whether the prediction equals the label, `[N]`; false if the classifier abstains.
        radius: certified radii, `[N]`, in pixel units.
        radii: values of r, `[R]`, in pixel units.

    Returns:
        Certified accuracy at each r, `[R]`, in [0, 1].
    """
    reach = np.sort(np.where(np.asarray(correct, dtype=bool), np.asarray(radius, dtype=float), -np.inf))
    return (len(reach) - np.searchsorted(reach, np.asarray(radii, dtype=float), side="left")) / len(reach)


def average_certified_radius(correct: ArrayLike, radius: ArrayLike) -> float:
    """Compute the average certified radius (ACR), where wrong predictions count as radius 0.

    The ACR is the integral of the certified accuracy over the radius. Because easy images dominate the ACR, report it
    together with the curve of the certified accuracy.

    Source: Zhai et al., MACER: Attack-free and Scalable Robust Training via Maximizing Certified Radius, ICLR 2020.
    """
    return float(np.mean(np.asarray(correct, dtype=float) * np.asarray(radius, dtype=float)))


def accuracy_with_high_probability(
    accuracy: ArrayLike, alpha: float, num_images: int, rho: float = 1e-3
) -> NDArray[np.float64]:
    """Compute a lower confidence bound for the certified accuracy on a fixed set of images.

    The bound takes into account that some certificates may be wrong. The m certificates are independent, and each is
    wrong with probability at most alpha. Let k be the smallest number with P(B > k) <= rho for B ~ Binomial(m, alpha).
    With a probability of at least 1 - rho, at most k certificates are wrong. The bound is therefore the accuracy minus
    k / m. It holds for all radii simultaneously.

    The published code subtracts alpha + sqrt(alpha (1 - alpha) ln(1/rho) / m) + ln(1/rho) / (3 m) instead. Bernstein's
    inequality has a factor 2 under the root and a factor 2 in the last term; the published formula lacks both factors.
    The published bound is therefore not valid: with alpha = rho = 0.001 and m = 10,000, it fails with probability
    0.0016.

    Args:
        accuracy: certified accuracies, of any shape.
        alpha: maximum probability that a certificate is wrong.
        num_images: number m of certificates.
        rho: maximum probability that the bound is wrong.
    """
    wrong = binom.isf(rho, num_images, alpha) / num_images
    return np.maximum(np.asarray(accuracy, dtype=float) - wrong, 0.0)
