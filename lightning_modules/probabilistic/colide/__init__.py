"""Learn a directed acyclic graph together with the noise scale of its nodes (CoLiDE).

Rows of centred data X `[n, d]` follow x = W^T x + z. W[i, j] is the effect of i on j, and z is independent noise. Let
cov = X^T X / n, and let v_j = ((I - W)^T cov (I - W))_jj be the residual variances. The score

    S(W, sigma) = 1/2 sum_j (v_j / sigma_j + sigma_j)

is minimal at sigma_j = sqrt(v_j) (CoLiDE-NV, one scale for each node). If all scales are equal, it is minimal at sigma
= sqrt(mean_j v_j) (CoLiDE-EV). The best penalty on W therefore depends less on the noise than in the baseline. The
baseline is least squares with S = 1/2 sum_j v_j (DAGMA). W is acyclic if

    h_s(W) = d log s - log det(s I - W o W)

is zero. h_s is defined while s I - W o W has a nonnegative inverse. Along mu = 1, 0.1, ... and s = 1, 0.9, ... Adam
minimises

    mu (S + lambda ||W||_1) + h_s(W),

where each stage starts from the result of the previous stage. After every step, sigma is set in closed form. No
gradient flows through sigma. If an iterate leaves the domain, the iterate is reverted, and the step is halved. If this
happens at the start of a stage, or with s <= 0.9, the stage restarts with half the learning rate and s + 0.1. At the
end, weights of absolute value up to 0.3 are removed. If cycles remain, the smallest weights are also removed until
there are no cycles. The diagonal of W is not masked, because h drives it to zero.

The steps are those of the code of the authors, with one exception. As in the paper, sigma stays above a floor of 1e-4
times the smallest standard deviation of a column. The code of the authors omits this floor. Ordinary data never reach
it. The next step of Adam depends on whether the last step left the domain. The path is therefore computed on the CPU,
in NumPy. A process computes one path. For several graphs or seeds, use separate runs. The argument `solver` selects a
baseline, NOTEARS or GOLEM (`baselines`).

Source: Saboksayr, Mateos and Tepper, CoLiDE: Concomitant Linear DAG Estimation, ICLR 2024, arXiv 2310.02895.
"""

from lightning_modules.probabilistic.colide.module import CoLiDE

__all__ = ["CoLiDE"]
