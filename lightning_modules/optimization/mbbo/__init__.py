"""Solve bilevel problems that have many lower-level problems (BSVRB).

The problem is to minimise F(x) = (1/m) sum_i f_i(y_i(x)) over the upper-level variable x. There are m blocks, and block
i has the lower-level problem y_i(x) = argmin_y g_i(x, y). All blocks share x. If all g_i are strongly convex in y, the
gradient of F_i(x) = f_i(y_i(x)) is

    grad F_i = -grad^2_xy g_i [grad^2_yy g_i]^-1 grad_y f_i.

Each iteration samples I blocks, and one batch for each of these blocks. Derivatives are evaluated at the current
iterate and at the previous iterate. A prime (') marks derivatives at the previous iterate. Trackers are running
estimates of the derivatives, such as s_i. An iteration updates only the variables and trackers of the sampled blocks:

    s_i = (1 - alpha) s_i + alpha grad_y g_i + gamma (grad_y g_i - grad_y g_i')                         MSVR
    v1:  H_i <- P((1 - alpha) H_i + alpha grad^2_yy g_i + gamma (grad^2_yy g_i - grad^2_yy g_i'))
    v2:  u_i tracks grad^2_yy g_i v_i - grad_y f_i by the formula of s_i, and v_i <- P_V(v_i - tau_v d_i u_i)
    y_i <- y_i - tau d_i s_i,          d_i = iterations from the last update of block i to this one

The variable x is updated with z, a tracker of grad F. The tracker z is updated with a gradient estimate G, which is
computed from the values of H, y and v before the updates above:

    G = -(1/I) sum_i grad^2_xy g_i H_i^-1 grad_y f_i  (v1)    or    -(1/I) sum_i grad^2_xy g_i v_i  (v2)
    z <- (1 - beta) (z - G') + G,    x <- x - eta z                                                     STORM

P is the projection onto the set of symmetric matrices whose eigenvalues are at least the strong-convexity constant mu.
P_V is the projection onto a ball. The cost of an iteration depends on I and not on m. Blocks are sharded over ranks,
and only the estimates of the gradient of F are all-reduced.

Application 1 (`BSVRB`) learns weights of training samples, some of which are mislabelled. The upper-level functions are
the losses of m logistic models on trusted samples (see `reweighting`). The baseline `RSVRB` updates the trackers of all
blocks in each iteration. The trackers of RSVRB consist of m n (D + 1) numbers (see `AllBlocks`). Application 2
(`NDCGRanking`) learns to rank items by maximising NDCG. The blocks of application 2 are the pairs of a user and a rated
item, and the lower-level variables are scalars (see `ranking`). MSVR updates the lower-level variables u and, for
NDCG@K, the thresholds that select the top K items. The optimizer of the network receives G - gamma_m G' as the
gradient, where gamma_m is the argument `gamma_gradient`.

The paper's text was not available. The order of the updates is that of the authors' code. This implementation differs
from the authors' code in the following points. The data term of the Hessian is added here, and subtracted in the
authors' code. Hessian-vector products are vectors here; the authors' code uses only the first entry of each product. P
is a projection here; the authors' code scales H up instead. In v1, only the sampled blocks are updated here, as in v2.
In the authors' v1, all blocks take steps along outdated trackers. Trusted samples are not used as training samples
here. In the authors' code, the trusted samples are the last training samples. Batches are sampled independently here.
Variables are initialised with zero and trackers with the derivatives of a batch here, whereas the authors' code
initialises both randomly. In each iteration, RSVRB projects the Hessians of all blocks here. The authors' code projects
only the Hessians of the sampled blocks, and lets the Hessians of the other blocks decay. The weight gamma is an
argument here, which can be set to its theoretical value.

The authors' ranking code contains a branch for the top K items, but returns before it reaches this branch. In the
branch, psi' lacks the factor a. The authors' code also keeps v at zero for the previous iterate. At the beginning of
the first epoch, the authors' code uses the network from the start of this epoch as the previous iterate. Here, the
previous iterate is the network before the last step, evaluated with the same dropout masks. The NDCG metric here ranks
all items that a user has not rated in training or, in tests, in validation, whereas the authors' code ranks only the
items in its files.

Source: Hu, Qiu, Guo, Zhang and Yang, Blockwise Stochastic Variance-Reduced Methods with Parallel Speedup for
Multi-Block Bilevel Optimization, ICML 2023, arXiv 2305.18730.
"""

from lightning_modules.optimization.mbbo.module import BSVRB, RSVRB
from lightning_modules.optimization.mbbo.ndcg import NDCGRanking, NeuMF

__all__ = ["BSVRB", "RSVRB", "NDCGRanking", "NeuMF"]
