"""Solve a bilevel problem with many lower levels by trackers of those blocks alone that an iteration samples (BSVRB).

The lower levels y_i(x) = argmin_y g_i(x, y), i = 1 ... m, share the upper variable x, and F(x) = (1/m) sum_i
f_i(y_i(x)) is to be least. With strongly convex g_i

    grad F_i = -grad^2_xy g_i [grad^2_yy g_i]^-1 grad_y f_i.

In an iteration I blocks are sampled, each with a batch, on which everything is evaluated at this iterate and, ', the
one before. Of these blocks alone

    s_i = (1 - alpha) s_i + alpha grad_y g_i + gamma (grad_y g_i - grad_y g_i')                         MSVR
    v1:  H_i <- P((1 - alpha) H_i + alpha grad^2_yy g_i + gamma (grad^2_yy g_i - grad^2_yy g_i'))
    v2:  u_i follows grad^2_yy g_i v_i - grad_y f_i alike, and v_i <- P_V(v_i - tau_v d_i u_i)
    y_i <- y_i - tau d_i s_i,          d_i = 1 + iterations missed since the last visit

and, with H, y and v as they were before these updates,

    G = -(1/I) sum_i grad^2_xy g_i H_i^-1 grad_y f_i  (v1)    or    -(1/I) sum_i grad^2_xy g_i v_i  (v2)
    z <- (1 - beta) (z - G') + G,    x <- x - eta z                                                     STORM

P keeps H symmetric with eigenvalues of at least mu, the strong convexity; P_V is the ball of a radius. An iteration
touches I blocks, whatever m is. On several processes each has a part of the blocks, and z alone is summed over them.

One application is the weighing of training samples, some of them with false labels, by the losses of m logistic models
on trusted samples, see `reweighting`. `RSVRB` is its baseline, whose trackers of all blocks, m n (D + 1) numbers, move
in each iteration, see `all_blocks`. The other one is the ranking of items by NDCG (`NDCGRanking`), whose blocks are
users and their rated items with lower levels of one number each, see `ranking`: u and the threshold of the K best items
follow MSVR, and the network's optimizer gets G - gamma_m G'.

The paper's text was not at hand: the order of updates is the authors' code's, from which this departs where it errs or
is not the algorithm. The Hessian's data term has its sign (theirs is subtracted), products with it are vectors (theirs
take the first number), P is a projection (theirs scales H up), v1 is as lazy as v2 (theirs moves all blocks, along
stale trackers), trusted samples do not train (theirs are the last of the training samples), batches are independent,
and everything begins at zero, trackers with a batch, instead of at random. RSVRB's Hessians are projected in each
iteration (theirs where they were sampled, and they decay elsewhere). gamma's value of the theory is an argument.

Of rankings, their code returns before its branch of the K best items, in which psi' lacks its slope; it keeps the last
iterate's v at zero, and compares with the network of the first epoch's start at first. Here that network is the last
iterate, dropout is the same for both, and NDCG ranks all items that a user did not rate (theirs: those that files
list).

Source: Hu, Qiu, Guo, Zhang and Yang, Blockwise Stochastic Variance-Reduced Methods with Parallel Speedup for
Multi-Block Bilevel Optimization, ICML 2023, arXiv 2305.18730.
"""

from lightning_modules.optimization.mbbo.module import BSVRB
from lightning_modules.optimization.mbbo.ndcg import NDCGRanking
from lightning_modules.optimization.mbbo.neumf import NeuMF
from lightning_modules.optimization.mbbo.rsvrb import RSVRB

__all__ = ["BSVRB", "RSVRB", "NDCGRanking", "NeuMF"]
