"""Bound the probability of a vote, and summarise a set of certificates of randomised smoothing.

A base classifier f of images in [0, 1] and Gaussian noise make the smoothed classifier

    g(x) = argmax_c P(f(x + sigma e) = c),   e ~ N(0, I).

If the class A that g gives x has P(f(x + sigma e) = A) >= p > 1/2, then g is constant within the l2 radius sigma
Phi^-1(p). The probability is known only from votes, so p is a lower confidence bound: at a fixed number of draws
Clopper and Pearson's, or one that holds at all numbers of draws at once, which may therefore be stopped at any time.

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
"""The prediction that claims nothing."""


def clopper_pearson_lower(hits: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """Bound a probability from below, exactly for a number of draws that is fixed beforehand.

    It is the lower end of the two-sided interval at level 2 alpha, which is how the published code asks for it.

    Args:
        hits: successes, of any shape, in [0, n]; need not be whole.
        n: number of draws.
        alpha: probability that the bound exceeds the true value, in (0, 1).

    Returns:
        The bounds, of the shape of `hits`.
    """
    hits = np.asarray(hits, dtype=float)
    return np.where(hits == 0, 0.0, betaincinv(np.maximum(hits, 1e-12), n - hits + 1, alpha))


def clopper_pearson_upper(hits: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """Bound a probability from above, see `clopper_pearson_lower`."""
    return 1 - clopper_pearson_lower(n - np.asarray(hits, dtype=float), n, alpha)


def log_wealth(hits: ArrayLike, n: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Compute the log of what a gambler who starts with 1 owns after betting against the probability p.

    W(p) = log B(k + 1/2, n - k + 1/2) - log B(1/2, 1/2) - k log p - (n - k) log(1 - p)

    If p is true then, by Ville's inequality, P(W(p) ever reaches log(1/a)) <= a.

    Args:
        hits: k, successes so far.
        n: number of draws so far.
        p: hypothesised probability, in [0, 1].
    """
    hits, n, p = np.asarray(hits, dtype=float), np.asarray(n, dtype=float), np.asarray(p, dtype=float)
    return betaln(hits + 0.5, n - hits + 0.5) - math.log(math.pi) - xlogy(hits, p) - xlog1py(n - hits, -p)


def log_wealth_above(hits: ArrayLike, n: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Compute `log_wealth` of a gambler who bets only on probabilities above p, and loses nothing on those below.

    W+(p) = W(p) + log P(b > p | k, n) - log P(b > p),   with b ~ Beta(1/2, 1/2) before and Beta(k + 1/2, n - k + 1/2)
    after.

    It is a mixture of likelihood ratios of q > p against p. Each has expectation at most 1 for every true probability
    up to p, hence P(W+(p) ever reaches log(1/a)) <= a for all of these.
    """
    hits, n, p = np.asarray(hits, dtype=float), np.asarray(n, dtype=float), np.asarray(p, dtype=float)
    with np.errstate(divide="ignore"):
        after = np.log(betaincc(hits + 0.5, n - hits + 0.5, p))
        return log_wealth(hits, n, p) + after - np.log(betaincc(0.5, 0.5, p))


def _root_below(wealth: Callable[[float], float], highest: float, alpha: float) -> float:
    """Find the smallest p of (0, highest) at which a wealth that falls with p is below log(1/alpha)."""
    threshold = math.log(1 / alpha)
    lowest = highest * 0.5
    while wealth(lowest) < threshold:
        lowest *= 0.5
    return brentq(lambda p: wealth(p) - threshold, lowest, highest, xtol=1e-15, rtol=1e-14)


def anytime_lower(hits: float, n: int, alpha: float) -> float:
    """Compute the lower end of the confidence sequence {p : W(p) < log(1/alpha)}.

    With probability 1 - alpha, all ends, lower and upper, at all n, are on their sides of the true value.

    Args:
        hits: successes so far; need not be whole.
        n: number of draws so far.
        alpha: probability that any end of the sequence is ever wrong, in (0, 1).
    """
    if hits == 0:
        return 0.0
    highest = hits / n if hits < n else 1 - 1e-16
    return _root_below(lambda p: float(log_wealth(hits, n, p)), highest, alpha)


def anytime_upper(hits: int, n: int, alpha: float) -> float:
    """Compute the upper end of the confidence sequence, see `anytime_lower`."""
    return 1 - anytime_lower(n - hits, n, alpha)


def one_sided_anytime_lower(hits: int, n: int, alpha: float) -> float:
    """Find the smallest p with W+(p) < log(1/alpha), which is larger than `anytime_lower` and bounds one side alone.

    With probability 1 - alpha it is below the true value at all n.
    """
    if hits == 0:
        return 0.0
    return _root_below(lambda p: float(log_wealth_above(hits, n, p)), min(hits / n, 1 - 1e-9), alpha)


def one_sided_anytime_upper(hits: int, n: int, alpha: float) -> float:
    """Bound from above at all n with probability 1 - alpha, see `one_sided_anytime_lower`."""
    return 1 - one_sided_anytime_lower(n - hits, n, alpha)


def gaussian_radius(p: float, sigma: float) -> float:
    """Compute the radius within which a class of probability at least p keeps the majority.

    Args:
        p: lower bound of the probability, in [0, 1].
        sigma: standard deviation of the noise, in pixel units.

    Returns:
        sigma Phi^-1(p), in pixel units: negative, where p < 1/2, means none.
    """
    return float(sigma * ndtri(p))


def predict(votes: ArrayLike, alpha: float) -> int:
    """Give the class of most votes, if it beats the second in an exact two-sided binomial test (PREDICT).

    Args:
        votes: `[K]`, votes for each class.
        alpha: probability that the class that is given is not g's.

    Returns:
        The class or `ABSTAIN`.
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
    """Find the smallest number of draws that costs at most a stated part of the radius that `n_max` draws would give.

    The cost must be kept to for every probability in a two-sided interval around the pilot's. That interval decides
    how much is saved, never whether the certificate holds: the number does not depend on the draws that certify. Of
    several votes, the probabilities are moved from the lower to the upper ends of their intervals together.

    Args:
        pilot_hits: votes of each stream for the selected class, in the pilot.
        pilot_draws: number of draws of the pilot.
        n_max: largest number of draws.
        step: divisor of the number of draws, unless that is `n_max`.
        alpha: failure probability of the certificate.
        pilot_alpha: failure probability of the interval.
        max_loss: largest loss of radius, in pixel units, or a fraction if `relative`.
        relative: whether `max_loss` is a fraction.
        radius: maps probabilities, one for each stream, to the certified radius.

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
    """Compute the share of images that are classified correctly and certified at least as far as r.

    Args:
        correct: `[N]`: whether the prediction is the label; abstaining is not.
        radius: `[N]`, certified radii, in pixel units.
        radii: `[R]`, values of r, in pixel units.

    Returns:
        `[R]`, in [0, 1].
    """
    reach = np.sort(np.where(np.asarray(correct, dtype=bool), np.asarray(radius, dtype=float), -np.inf))
    return (len(reach) - np.searchsorted(reach, np.asarray(radii, dtype=float), side="left")) / len(reach)


def average_certified_radius(correct: ArrayLike, radius: ArrayLike) -> float:
    """Average the radius, 0 where the prediction is wrong: the integral of the certified accuracy over r.

    Easy images dominate it, so the curve belongs beside it.

    Source: Zhai et al., MACER: Attack-free and Scalable Robust Training via Maximizing Certified Radius, ICLR 2020.
    """
    return float(np.mean(np.asarray(correct, dtype=float) * np.asarray(radius, dtype=float)))


def accuracy_with_high_probability(
    accuracy: ArrayLike, alpha: float, num_images: int, rho: float = 1e-3
) -> NDArray[np.float64]:
    """Bound the certified accuracy of the images at hand from below, whichever certificates are wrong.

    Each of m certificates is wrong with probability at most alpha, independently of the others, so the number of wrong
    ones is, with probability 1 - rho, at most the quantile k of the binomial distribution B(m, alpha): the smallest one
    with P(B > k) <= rho. The bound is the accuracy less k / m, and holds at all radii at once.

    The published code subtracts alpha + sqrt(alpha (1 - alpha) ln(1/rho) / m) + ln(1/rho) / (3 m) instead, without the
    factors 2 that Bernstein's inequality has under the root and in the last term. That is no bound: at alpha = rho =
    0.001 and m = 10,000 it fails with probability 0.0016.

    Args:
        accuracy: certified accuracies, of any shape.
        alpha: failure probability of each certificate.
        num_images: m, number of certificates.
        rho: probability that the bound is wrong.
    """
    wrong = binom.isf(rho, num_images, alpha) / num_images
    return np.maximum(np.asarray(accuracy, dtype=float) - wrong, 0.0)
