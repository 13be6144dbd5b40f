"""Learn a directed acyclic graph together with the noise scale of its nodes (CoLiDE).

Rows of centred data X `[n, d]` follow x = W^T x + z: W[i, j] is the effect of i on j, and z is independent noise. With
cov = X^T X / n and the residual variances v_j = ((I - W)^T cov (I - W))_jj, the score

    S(W, sigma) = 1/2 sum_j (v_j / sigma_j + sigma_j)

is minimal in sigma at sigma_j = sqrt(v_j) (CoLiDE-NV, one scale for each node), or at sigma = sqrt(mean_j v_j) if all
scales are equal (CoLiDE-EV). The best penalty on W therefore depends less on the noise than in the baseline, least
squares with S = 1/2 sum_j v_j (DAGMA). W is acyclic if

    h_s(W) = d log s - log det(s I - W o W)

is zero; h_s is defined while s I - W o W has a nonnegative inverse. Along mu = 1, 0.1, ... and s = 1, 0.9, ... Adam
minimises

    mu (S + lambda ||W||_1) + h_s(W),

where each stage starts from the end of the previous one. After every step, sigma is set in closed form; no gradient
flows through sigma. If an iterate leaves the domain, the iterate is reverted and the step is halved. If an iterate
leaves the domain at the start of a stage, or with s <= 0.9, the stage restarts with half the learning rate and s + 0.1.
In the end, weights of at most 0.3 are removed. If cycles remain, the smallest weights are also removed until there are
no cycles. The diagonal of W is not masked, because h drives it to zero.

The steps are those of the authors' code, with one exception: as in the paper, sigma stays above a floor of 1e-4 times
the smallest standard deviation of a column. The authors' code omits this floor, which ordinary data never reach. Adam's
next step depends on whether the last step left the domain, so the path is computed on the CPU, in NumPy. A process
computes one path; use separate runs for several graphs or seeds.

Source: Saboksayr, Mateos and Tepper, CoLiDE: Concomitant Linear DAG Estimation, ICLR 2024, arXiv 2310.02895.
"""

from lightning_modules.probabilistic.colide.module import CoLiDE

__all__ = ["CoLiDE"]
