"""Learn a halfspace from noisy labels, and test the assumption on the points without which the result means nothing.

Labels y in {-1, 1} are those of a halfspace, sign<w*, x>, each flipped with an unknown probability eta(x) <= eta < 1/2
(Massart noise), and x is said to be standard normal. One half of the sample teaches: on the sphere, from w = e_1,

    L(w) = E l(-y <w, x> / |w|),    grad L = -E[y l'(<w, x>) (x - <w, x> w)],    w <- (w - beta grad L) / |.|

with a smooth step l of width sigma, mini-batch by mini-batch. The other half judges:

    1. of the iterates that were kept, w has the least norm of the gradient;
    2. w and -w are rejected if this norm is above alpha, or one of these is above its threshold, see `marginal_tests`:
           T1  covariance of x
           T2  mass of the bands |<w, x>| <= sigma / 6 and sigma / 2
           T3  moments of x across w given a band, of degree 2 and 4;
    3. of those that are left, the one with the smaller 0-1 error is returned; if none is, the answer is: reject.

T1 to T3 and the norm are the same for w and -w, so both are rejected or none. Where the tests pass and the gradient is
small, the angle to w* is O(sigma / (1 - 2 eta)), whatever the law of x is: a wrong direction would have a gradient that
the mass and the moments in the bands force on it. Whoever skips the tests gets a halfspace that may err by half.

A threshold is what standard normal points of the same number and dimension stay below, by simulation, such that all
pass at once with probability 1 - delta for a fixed w (w depends on the sample, and is tried as one of few); but no more
than a cap, beyond which a pass would mean nothing. So few points are rejected even if they are normal. A reject is a
result. Constants of the proof are so large that they certify no useful angle: no number is given for it.

The paper has theory alone, and its surrogate, constants and degrees were not at hand. The step `ramp` with the paper's
bands, the thresholds, and T3 by operator norms of moments up to degree 4 are this project's; `logistic` is the step of
Diakonikolas et al. Massart noise is assumed, and not tested. Descent begins at e_1 alone, without random restarts.

Source: Gollakota, Klivans, Stavropoulos and Vasilyan, An Efficient Tester-Learner for Halfspaces, ICLR 2024, arXiv
2302.14853. The learner: Diakonikolas, Kontonis, Tzamos and Zarifis, Learning Halfspaces with Massart Noise Under
Structured Distributions, COLT 2020, arXiv 2002.05632.
"""

from lightning_modules.probabilistic.tester_learner.module import TesterLearner

__all__ = ["TesterLearner"]
