"""Train with target-based surrogates (SSO).

For each expensive gradient of its loss, a network takes many cheap steps. In learning from a simulator, the gradient of
a loss l with respect to the outputs z = f(theta) of a network is expensive. The network itself is cheap. One such
gradient defines a quadratic surrogate in the space of the outputs (targets). The weights take m cheap steps on this
surrogate. For a batch, at z_t = f(theta_t) and G = grad sum_i l_i(z_t):

    paper   g(theta) = l(z_t) + <G, z - z_t> + H/2 ||z - z_t||^2,           eta = 1/H
    code    S(theta) = mean over the entries of G (z - z_t) / H + (z - z_t)^2

    theta <- theta - step grad, m times. The Armijo condition on the surrogate gives the step sizes.

Instead, any optimizer of torch can take the m steps (`inner_optimizer`).

g equals l at theta_t. If l is L-smooth in z and eta <= 1/L, then g is an upper bound of l. Its minimum is at z_t - G/H
and that of S at z_t - G/(2H), so the code's 1/H is twice the paper's eta; apart from that they differ by a factor, and
the code's <G, z_t> by a constant, subtracted here since it costs precision. m = 1 is a step of SGD, and with increasing
m the weights approach the projected gradient step in target space.

H is scheduled, H, H sqrt(t) or H T^(t/T) at batch t = 1...T (`ScheduledStep`), or found by a line search on the outputs
(`LineSearchStep`, SSO-SLS), or H sqrt(sum ||G||^2) over the batches so far (`AdaGradStep`), or H sqrt(D) with sums D of
G^2 for each sample and output (`DiagonalAdaGradStep`), where S = mean of G (z - z_t) + H sqrt(D) (z - z_t)^2. For
the logistic loss, H can be the second derivative by the outputs (`LogisticNewtonStep`). G can be the estimate of SVRG
(`SVRG`), which needs the expensive gradients of only some samples in most steps.

Theory and curves are from the paper. Only its abstract was available. The algorithm follows the authors' code.
Differences from the code: if the inner search accepts no step, the weights do not change. The code takes the last step
untested. The inner loop stops before a step whose gradient is below 1e-6. The code stops after this step. The MNIST
loader of the authors reads only the 10,000 test images, with values in 0...255.

In online imitation learning, a batch is a round: the states that the policy visits (`datamodules.rollouts`). The policy
of the authors samples actions and bounds them by a tanh. The distance to the actions of the expert ignores this tanh.
Here the action is the clipped output of the policy. The environments of the authors continue from one round to the
next. Here each round resets the environments. SVRG on the weights, a baseline of the authors, is not
included.

Source: Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based Surrogates for Stochastic Optimization, ICML
2023, arXiv 2302.02607.
"""

from lightning_modules.optimization.sso.descent import Descent, LineSearchDescent
from lightning_modules.optimization.sso.module import SSO
from lightning_modules.optimization.sso.svrg import SVRG
from lightning_modules.optimization.sso.target_steps import (
    AdaGradStep,
    DiagonalAdaGradStep,
    LineSearchStep,
    LogisticNewtonStep,
    ScheduledStep,
    TargetStep,
)

__all__ = [
    "SSO",
    "SVRG",
    "AdaGradStep",
    "Descent",
    "DiagonalAdaGradStep",
    "LineSearchDescent",
    "LineSearchStep",
    "LogisticNewtonStep",
    "ScheduledStep",
    "TargetStep",
]
