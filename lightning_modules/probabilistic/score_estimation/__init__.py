"""Learn the score of noisy data with a wide network, and stop training before the network fits the noise.

The network is compared with its limit for infinite width, which is kernel gradient descent (kernel limit).

The data X_0 lie in a ball of radius D and diffuse by dX = -g X dt / 2 + sqrt(g) dW. Therefore X_t = a X_0 + sqrt(h) n,
where n is standard normal noise and h = 1 - a^2. The score of X_t is (a f*(t, x) - x) / h, where f* = E[X_0 | X_t = x].
The loss of weighted denoising score matching is

    L(W) = 1/2 sum_j |f_W(z_j) - X_0j|^2,    z_j = (X_tj, t_j - T_0, 1),    t_j uniform on [T_0, T],

which is a regression with the labels X_0. The label noise is X_0 - f*. The noise n of each data point is sampled once
and used for the whole training. The network is

    f_W(z) = m^(-1/2) sum_r a_r relu(w_r . z),    a_r in {-1, 1}^d frozen, w_r trained from N(0, I),

and it is trained by full-batch gradient steps W <- W - eta grad L. For wide networks, f_W after n steps is close to the
result of n steps of kernel gradient descent that starts from zero,

    f_n(z) = k(z, Z) H^-1 [I - (I - eta H)^n] y,    H = k(Z, Z),    k(z, z') = z.z' (pi - angle(z, z')) / (2 pi).

A single eigendecomposition of H gives f_n for all n. The error of the network, which is its distance from f*, is split
into four parts. The coupling error is the distance between the network and the kernel limit. The label mismatch is the
distance between the kernel limits for noisy labels and for noise-free labels. The early-stopping error is the distance
between the kernel limit for noise-free labels and the interpolant of these labels. The approximation error is the
distance between this interpolant and f*. Let l_i be the eigenvalues of H / N, and let c = eta N n. The stopping rule is

    n = min{n : ((1/N) sum_i min(l_i, 1/c))^(1/2) > 1 / (2 e sigma c)} - 1,    sigma^2 the variance of label noise.

The excess score error is the mean of (a / h)^2 |P f_W - f*|^2, where P projects onto the ball. The noisy data X_t are
unbounded. If `local_radius` is set, the regression therefore uses only the rows for which |X_t| is at most this radius.
For all other rows, the estimate of X_0 is 0.

The text of the paper was not available. The following parts are reconstructed from memory or were chosen for this
project: the weighting of the loss, the form of the network, the constants of the stopping rule, the constant 1 in z,
and the pairs of neurons with opposite output signs. Because of these pairs, the initial f_W is zero.

Source: Han, Razaviyayn and Xu, Neural Network-Based Score Estimation in Diffusion Models: Optimization and
Generalization, ICLR 2024, arXiv 2401.15604. The rule: Raskutti, Wainwright and Yu, Early Stopping and Non-parametric
Regression, JMLR 15, 2014.
"""

from lightning_modules.probabilistic.score_estimation.module import ScoreEstimation

__all__ = ["ScoreEstimation"]
