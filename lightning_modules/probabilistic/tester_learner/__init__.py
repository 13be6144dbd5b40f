"""Learn a halfspace from noisy labels, and test whether the points have the distribution that the error bound assumes.

The true labels are those of a halfspace, sign<w*, x>. Each observed label y in {-1, 1} is flipped with an unknown
probability eta(x) <= eta < 1/2 (Massart noise). By default, the points x are assumed to be standard normal, N(0, I).
The first half of the sample is used for learning. The learner descends on the unit sphere, starting from w = e_1, with
the steps

    L(w) = E l(-y <w, x> / |w|),    grad L = -E[y l'(<w, x>) (x - <w, x> w)],    w <- (w - beta grad L) / |.|

Each step uses a new mini-batch, and l is a smooth step function of width sigma. The second half of the sample is used
for testing:

    1. w is set to the stored iterate with the smallest gradient norm;
    2. w and -w are rejected if this norm is above a threshold alpha, or if a statistic of `marginal_tests` is above
       its own threshold:
           T1  covariance of x
           T2  mass of the bands |<w, x>| <= sigma / 6 and |<w, x>| <= sigma / 2
           T3  moments of degree 2 and 4, within a band, of the component of x that is orthogonal to w;
    3. otherwise, either w or -w is returned, whichever has the smaller 0-1 error.

The statistics and the gradient norm are the same for w and -w, so the tests reject both or neither. If the tests pass
and the gradient is small, the angle between w* and w or -w is O(sigma / (1 - 2 eta)). This bound holds for any
distribution of x: if the mass and the moments in the bands pass the tests, a wrong direction causes a larger gradient.
Without the tests, the returned halfspace may misclassify half of the points.

With adversarial label noise, a fraction opt of the labels is flipped, and these labels may be any labels. In this case,
a learner with a nonconvex surrogate has an error of at most O(opt) + eps. For adversarial noise, `tests: strips` adds
the test T4 (see the module `suites`). If two halfspaces form a small angle, T4 bounds the fraction of points on which
they differ. `tests: moments` is a baseline that tests moments and ignores the labels.

With `target: ball`, the points are assumed to have a different distribution, which is strongly log-concave: N(0, I),
restricted to the ball of radius sqrt(d) and scaled to covariance I. T2 and T3 then compare the points with the mass and
moments of this target.

Each threshold is a quantile of the statistic over simulated samples from the target. Each simulated sample has the same
number of points and the same dimension as the tested sample. If w did not depend on the sample and the points came from
the target, all tests would pass jointly with probability 1 - delta. In fact, w depends on the sample, but is one of
only a few candidates. The thresholds are capped, because passing a test with a threshold above the cap would be
meaningless. As a result, even points from the target are rejected if there are few of them. A rejection is a valid
result. The constants of the proof are too large to certify a useful angle, so no angle is reported.

The paper contains only theory. The paper's surrogate, constants and degrees of the moments were not available. The
following parts were designed for this project: the surrogate `ramp` for the paper's bands, the thresholds, the
computation of T3 from operator norms of moments up to degree 4, and T4. `logistic` is the surrogate of Diakonikolas et
al. For adversarial noise, the paper uses a grid of values of sigma, whereas the learner here uses a single value. The
assumption of Massart noise is not tested. Descent starts only at e_1, without random restarts.

Source: Gollakota, Klivans, Stavropoulos and Vasilyan, An Efficient Tester-Learner for Halfspaces, ICLR 2024, arXiv
2302.14853. The learner: Diakonikolas, Kontonis, Tzamos and Zarifis, Learning Halfspaces with Massart Noise Under
Structured Distributions, COLT 2020, arXiv 2002.05632.
"""

from lightning_modules.probabilistic.tester_learner.module import TesterLearner

__all__ = ["TesterLearner"]
