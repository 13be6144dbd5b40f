"""Learn online from a stochastic, drifting stream by optimistic online mirror descent.

In round t, the learner plays a point x_t in a ball of diameter D. Then a loss f_t with the mean F_t is sampled from the
distribution of round t. Let g_t be the gradient of f_t at x_t. Optimistic online mirror descent uses a hint M_t, which
predicts g_t. Here the hint is the last gradient: M_t = g_{t-1} and M_1 = 0. With the Bregman divergence D_{R_t} of a
regulariser R_t, the updates are

    x_t = argmin <M_t, x> + D_{R_t}(x, x^_t),    x^_{t+1} = argmin <g_t, x> + D_{R_t}(x, x^_t),    x in the ball.

    convex           R_t = ||x||^2 / (2 eta_t),    eta_t = D / sqrt(delta + 4 G^2 + V_{t-1}),    ||g_t|| <= G
                     V_t = sum_{s<=t} ||g_s - M_s||^2,    delta = 10 D^2 L^2, L the smoothness of F_t
    strongly convex  the same with eta_t = 2 / (lambda t)
    exp-concave      R_t = ||x||^2_{H_t} / 2,    H_t = (1 + beta G^2 / 2) I + (beta / 2) sum_{s<t} g_s g_s^T,
                     beta = min{1 / (4 G D), alpha} / 2; H^-1 by Sherman and Morrison, projection in the norm of H_t

For comparators that change over time, N learners with fixed step sizes eta_i = 2^i D / (G sqrt(T)) are combined, where
T is the number of rounds. The played point is x_t = sum_i p_{t,i} x_{t,i}. All learners take the steps of the convex
case, with the gradient at the played point. Optimistic Hedge computes the weights p_{t,i} of the learners:

    p^_{t+1,i} ~ p^_{t,i} exp(-eps_t l_{t,i}),    p_{t,i} ~ p^_{t,i} exp(-eps_t m_{t,i}),
    l_{t,i} = <g_t, x_{t,i}> + 2 L ||x_{t,i} - x_{t-1,i}||^2,    m_{t,i} the same with g_{t-1},
    eps_t = min{1 / (8 D^2 L), (1 + sum_{s<t} ||l_s - m_s||_inf^2)^(-1/2)}.

The metrics are two measures of the variation of the stream, and the static and the dynamic regret over the whole
stream,

    sigma^2 = sum_t max_x E||grad f_t - grad F_t||^2,    Sigma^2 = sum_t max_x ||grad F_t - grad F_{t-1}||^2, F_0 = 0,
    sum_t F_t(x_t) - min_u sum_t F_t(u)  (static),    sum_t F_t(x_t) - min F_t  (dynamic),

where f_t replaces F_t if F_t is unknown. If all F_t are known, there are two more metrics. `regret_exponent` is the
exponent b in static regret ~ t^b. `excess_risk` is the excess risk of the average of all played points x_t. In the
convex case, the static regret is of the order of sqrt(sigma^2) + sqrt(Sigma^2). There are three baselines. Online
gradient descent uses eta_t = D / (G sqrt(t)). Mirror descent without a hint uses M_t = 0. Optimistic FTRL plays x_t =
argmin <sum_{s<t} g_s + M_t, x> + ||x||^2 / eta_t with eta_t = D^2 / (nu + sum_{s<t} eta_s ||g_s - M_s||^2).

The largest step size of the ensemble is the first eta_i that is at least 1 / (8 L). If this eta_i equals 1 / (8 L),
PyNOL adds one more step size.

The theorems were not fully available. delta, the step size for strongly convex losses and H_t are reconstructed from
memory. The ensemble follows Sword++ in the package PyNOL, by the same group, and plays the same points as Sword++ up to
rounding. The paper has no experiments, so the value of nu and all streams were chosen for this project. For losses that
are not smooth, such as the hinge loss, use `ImplicitOMD`, which takes implicit steps (see the module `implicit`).

Source: Chen, Zhang, Tu, Zhao and Zhang, Optimistic Online Mirror Descent for Bridging Stochastic and Adversarial Online
Convex Optimization, ICML 2023 and JMLR 25(178), 2024, arXiv 2302.04552. FTRL: Sachs, Hadiji, van Erven and Guzman,
Between Stochastic and Adversarial Online Convex Optimization, NeurIPS 2022, arXiv 2202.07554.
"""

from lightning_modules.optimization.optimistic_omd.implicit import ImplicitOMD
from lightning_modules.optimization.optimistic_omd.module import OnlineConvexOptimization
from lightning_modules.optimization.optimistic_omd.optimizers import (
    OnlineGradientDescent,
    OptimisticEnsemble,
    OptimisticFTRL,
    OptimisticOMD,
)

__all__ = [
    "ImplicitOMD",
    "OnlineConvexOptimization",
    "OnlineGradientDescent",
    "OptimisticEnsemble",
    "OptimisticFTRL",
    "OptimisticOMD",
]
