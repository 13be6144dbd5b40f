"""Learn the score of noisy data with a wide network, and stop before it fits noise.

The network is compared with its kernel limit.

Data X_0 lie in a ball of radius D and diffuse by dX = -g X dt / 2 + sqrt(g) dW. This gives X_t = a X_0 + sqrt(h) n with
h = 1 - a^2. The score is (a f*(t, x) - x) / h with f* = E[X_0 | X_t = x], and weighted denoising score matching is

    L(W) = 1/2 sum_j |f_W(z_j) - X_0j|^2,    z_j = (X_tj, t_j - T_0, 1),    t_j uniform on [T_0, T],

a regression on labels X_0. The noise of a label is X_0 - f*. Each data point has one noise sample for the whole
training. The network

    f_W(z) = m^(-1/2) sum_r a_r relu(w_r . z),    a_r in {-1, 1}^d frozen, w_r trained from N(0, I),

takes full-batch steps W - eta grad L. For wide networks f_W follows kernel gradient descent from zero,

    f_n(z) = k(z, Z) H^-1 [I - (I - eta H)^n] y,    H = k(Z, Z),    k(z, z') = z.z' (pi - angle(z, z')) / (2 pi),

which a single eigendecomposition gives for all n. The distance from f* has four parts: coupling (from the network to
the kernel), label mismatch (from noisy to noise-free labels), early stopping (from the fit of noise-free labels to
their interpolant) and approximation (from the interpolant to f*). With l_i the eigenvalues of H / N and c = eta N n,
the stopping rule is

    n = min{n : ((1/N) sum_i min(l_i, 1/c))^(1/2) > 1 / (2 e sigma c)} - 1,    sigma^2 the variance of label noise.

The excess score error is the mean of (a / h)^2 |P f_W - f*|^2, where P projects onto the ball. Noisy data X_t are
unbounded. With `local_radius`, only rows with |X_t| up to this radius are used for the regression. The estimate is 0
for all other rows.

The text of the paper was not available. The weighting, the form of the network and the constants of the rule are from
memory or our choice. The same holds for the constant 1 in z, and for the pairs of neurons of opposite sign that make
f_W zero initially.

Source: Han, Razaviyayn and Xu, Neural Network-Based Score Estimation in Diffusion Models: Optimization and
Generalization, ICLR 2024, arXiv 2401.15604. The rule: Raskutti, Wainwright and Yu, Early Stopping and Non-parametric
Regression, JMLR 15, 2014.
"""

from lightning_modules.probabilistic.score_estimation.module import ScoreEstimation

__all__ = ["ScoreEstimation"]
