"""Learn a directed acyclic graph together with the noise of its nodes (CoLiDE).

Rows of centred data X `[n, d]` follow x = W^T x + z: W[i, j] is the effect of i on j, and z is independent noise. With
cov = X^T X / n and the residual variances v_j = ((I - W)^T cov (I - W))_jj, the score

    S(W, sigma) = 1/2 sum_j (v_j / sigma_j + sigma_j)

is least in sigma where sigma_j = sqrt(v_j) (CoLiDE-NV, a scale for each node), or sigma = sqrt(mean_j v_j) if all are
one (CoLiDE-EV). So the penalty that W needs depends less on the noise than that of least squares, S = 1/2 sum_j v_j
(DAGMA), which is the baseline. A W is acyclic where

    h_s(W) = d log s - log det(s I - W o W)

is zero; it is defined while s I - W o W has a nonnegative inverse. Along mu = 1, 0.1, ... and s = 1, 0.9, ... Adam
lowers

    mu (S + lambda ||W||_1) + h_s(W),

each stage from where the last one ended, with sigma in closed form after every step, through which there is no
gradient. An iterate that leaves the domain is taken back and its step halved; at the beginning of a stage, or with
s <= 0.9, the stage begins again with half the learning rate and s + 0.1. In the end weights of at most 0.3 are left out
and, if cycles remain, the smallest ones too until there is none. The diagonal is not masked: h drives it to zero.

The steps are those of the authors' code, but for one point: sigma stays above a floor, 1e-4 of the least deviation of a
column, which the paper has and their code leaves out; healthy data never reach it. The next step of Adam depends on
whether the last one left the domain, so the path is followed on the host, in NumPy. One process follows one path;
several graphs or seeds are several runs.

Source: Saboksayr, Mateos and Tepper, CoLiDE: Concomitant Linear DAG Estimation, ICLR 2024, arXiv 2310.02895.
"""

from lightning_modules.probabilistic.colide.module import CoLiDE

__all__ = ["CoLiDE"]
