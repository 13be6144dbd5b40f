"""Learn a directed acyclic graph together with the noise scales of its nodes (CoLiDE).

Each row x of the centred data X `[n, d]` follows x = W^T x + z. W[i, j] is the effect of node i on node j, and the
entries of z are independent noise. Let cov = X^T X / n, and let v_j = ((I - W)^T cov (I - W))_jj be the residual
variances. The score

    S(W, sigma) = 1/2 sum_j (v_j / sigma_j + sigma_j)

is minimal at sigma_j = sqrt(v_j) if each node has its own scale (CoLiDE-NV), and at sigma = sqrt(mean_j v_j) if all
nodes share one scale (CoLiDE-EV). The baseline is least squares with S = 1/2 sum_j v_j (DAGMA). With CoLiDE, the best
weight lambda of the penalty on W depends less on the noise than with this baseline. W is acyclic if

    h_s(W) = d log s - log det(s I - W o W)

is zero. The domain of h_s consists of the matrices W for which s I - W o W has a nonnegative inverse. Training consists
of stages with decreasing mu = 1, 0.1, ... and s = 1, 0.9, ... In each stage, Adam minimises

    mu (S + lambda ||W||_1) + h_s(W),

starting from the result of the previous stage. After every step, sigma is set to its closed-form minimiser, and no
gradient flows through sigma. An iterate may leave the domain of h_s. If this happens at the start of a stage, or while
s <= 0.9, the stage is restarted with half the learning rate and with s increased by 0.1. Otherwise, the last step is
reverted and repeated with half the learning rate. After the last stage, weights with absolute values up to 0.3 are
removed. If cycles remain, the smallest remaining weights are removed until the graph is acyclic. The diagonal of W is
not masked, because h_s drives it to zero.

The steps are those of the authors' code, with one exception. As in the paper, sigma is kept above a floor, which is
here 1e-4 times the smallest standard deviation of a column. The authors' code omits this floor. With ordinary data,
sigma never reaches the floor. Because each Adam step depends on whether the previous step left the domain, the stages
are computed on the CPU, with NumPy. A run uses one process and fits one graph. For several graphs or seeds, use
separate runs. The argument `solver` selects NOTEARS or GOLEM as a baseline (see `baselines`).

Source: Saboksayr, Mateos and Tepper, CoLiDE: Concomitant Linear DAG Estimation, ICLR 2024, arXiv 2310.02895.
"""

from lightning_modules.probabilistic.colide.module import CoLiDE

__all__ = ["CoLiDE"]
