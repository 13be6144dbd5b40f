"""Solve bilevel problems with many lower levels (BSVRB).

An iteration updates only the trackers of the sampled blocks. Minimise F(x) = (1/m) sum_i f_i(y_i(x)) over the upper
variable x. All lower levels y_i(x) = argmin_y g_i(x, y), i = 1 ... m, share x. With strongly convex g_i

    grad F_i = -grad^2_xy g_i [grad^2_yy g_i]^-1 grad_y f_i.

An iteration samples I blocks, and one batch for each of these blocks. Derivatives are evaluated at the current and at
the previous iterate. A prime (') marks derivatives at the previous iterate. Only the sampled blocks are updated:

    s_i = (1 - alpha) s_i + alpha grad_y g_i + gamma (grad_y g_i - grad_y g_i')                         MSVR
    v1:  H_i <- P((1 - alpha) H_i + alpha grad^2_yy g_i + gamma (grad^2_yy g_i - grad^2_yy g_i'))
    v2:  u_i follows grad^2_yy g_i v_i - grad_y f_i alike, and v_i <- P_V(v_i - tau_v d_i u_i)
    y_i <- y_i - tau d_i s_i,          d_i = 1 + iterations since block i was last sampled

and, computed with H, y and v from before these updates,

    G = -(1/I) sum_i grad^2_xy g_i H_i^-1 grad_y f_i  (v1)    or    -(1/I) sum_i grad^2_xy g_i v_i  (v2)
    z <- (1 - beta) (z - G') + G,    x <- x - eta z                                                     STORM

P projects H onto symmetric matrices. Their eigenvalues are at least the strong-convexity constant mu. P_V projects onto
a ball. The cost of an iteration depends on I, not on m. Blocks are sharded over ranks, and only z is all-reduced.

Application 1 learns weights of training samples. Some of these samples are mislabelled. The upper-level functions are
the losses of m logistic models on trusted samples. `reweighting` has the details. The baseline `RSVRB` updates the
trackers of all blocks in each iteration. These trackers consist of m n (D + 1) numbers (see `AllBlocks`). Application 2
learns to rank items by NDCG (`NDCGRanking`). Its blocks are users and their rated items, and its lower levels are
scalar (see `ranking`). In application 2, u and the threshold of the top K items follow MSVR. The optimizer of the
network receives G - gamma_m G'.

The paper's text was not available. Updates are ordered as in the authors' code; departures from it: the Hessian's data
term is added (theirs is subtracted), Hessian-vector products are vectors (theirs take the first number), P is a
projection (theirs scales H up), v1 is as lazy as v2 (theirs moves all blocks, along stale trackers), trusted samples
are not trained on (theirs are the last of the training samples), batches are independent, and variables start at zero
and trackers from a batch (theirs at random). In each iteration, RSVRB projects the Hessians of all blocks. The code of
the authors projects only those of sampled blocks, and lets the others decay. gamma is an argument; its theoretical
value is one choice.

For rankings, the code of the authors returns before its top-K branch. In this branch, psi' lacks its slope. The code of
the authors also keeps v of the previous iterate at zero. Initially, it uses the network at the start of the first epoch
as the previous iterate. Here the previous iterate is the network before the last step, with the same dropout. Here NDCG
ranks all items that a user did not rate. The code of the authors ranks only the items in its files.

Source: Hu, Qiu, Guo, Zhang and Yang, Blockwise Stochastic Variance-Reduced Methods with Parallel Speedup for
Multi-Block Bilevel Optimization, ICML 2023, arXiv 2305.18730.
"""

from lightning_modules.optimization.mbbo.module import BSVRB, RSVRB
from lightning_modules.optimization.mbbo.ndcg import NDCGRanking, NeuMF

__all__ = ["BSVRB", "RSVRB", "NDCGRanking", "NeuMF"]
