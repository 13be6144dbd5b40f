"""Learn a halfspace from noisy labels, and test whether the points have the distribution that its error bound assumes.

Labels y in {-1, 1} are given by a halfspace, sign<w*, x>. Each label is flipped with an unknown probability eta(x) <=
eta < 1/2 (Massart noise). The points x are assumed to be standard normal, N(0, I), by default. The first half of the
sample is for learning. On the sphere, from w = e_1, it takes steps

    L(w) = E l(-y <w, x> / |w|),    grad L = -E[y l'(<w, x>) (x - <w, x> w)],    w <- (w - beta grad L) / |.|

on one mini-batch after another, with a smooth step l of width sigma. The second half of the sample is for testing:

    1. w is the stored iterate with the smallest gradient norm;
    2. w and -w are rejected if this norm is above alpha, or one of these is above its threshold, see `marginal_tests`:
           T1  covariance of x
           T2  mass of the bands |<w, x>| <= sigma / 6 and sigma / 2
           T3  moments of x orthogonal to w given a band, of degree 2 and 4;
    3. otherwise, w or -w is returned, the one with the smaller 0-1 error.

T1 to T3 and the norm are the same for w and -w, so the tests reject both or neither. If the tests
pass and the gradient is small, the angle to w* is O(sigma / (1 - 2 eta)). This holds for any distribution of x. A wrong
direction would cause a larger gradient, because of the mass and the moments in the bands. Without the tests, a
halfspace may err on half of the points.

For adversarial label noise, any labels may be flipped, at a rate of opt. Then a learner with a nonconvex surrogate has
an error of O(opt) + eps, and `tests: strips` adds a test T4, see `suites`. T4 bounds the fraction of points at which
halfspaces with a small angle differ. `tests: moments` is a baseline, a test of moments that ignores the labels.

With `target: ball`, the points are assumed to have a strongly log-concave distribution instead: N(0, I) restricted to
the ball of radius sqrt(d), and scaled to covariance I. T2 and T3 then compare with the mass and moments of this target.

Each threshold is a quantile of the statistic for points sampled from the target. The simulation uses as many points as
the sample, of the same dimension. With these thresholds, all tests pass jointly with probability 1 - delta if w is
fixed. Here w depends on the sample, but is one of few candidates. Thresholds are capped, because a pass with a
threshold above the cap would mean nothing. As a result, even points of the target are rejected if there are few of
them. A rejection is a valid result. The constants of the proof are too large to certify a useful angle. Therefore no
angle is reported.

The paper contains only theory. Its surrogate, constants and degrees were not available. The step `ramp` with the
paper's bands, the thresholds, and T3 by operator norms of moments up to degree 4 are this project's; `logistic` is the
step of Diakonikolas et al. T4 is also this project's. The paper has a grid of sigma for adversarial noise, and the
learner here has one sigma. The assumption of Massart noise is not tested. Descent starts only at e_1, without random
restarts.

Source: Gollakota, Klivans, Stavropoulos and Vasilyan, An Efficient Tester-Learner for Halfspaces, ICLR 2024, arXiv
2302.14853. The learner: Diakonikolas, Kontonis, Tzamos and Zarifis, Learning Halfspaces with Massart Noise Under
Structured Distributions, COLT 2020, arXiv 2002.05632.
"""

from lightning_modules.probabilistic.tester_learner.module import TesterLearner

__all__ = ["TesterLearner"]
