"""Train a network with target-based surrogates of an expensive loss (SSO).

The gradient of a loss l with respect to the outputs z = f(theta) of a network may be expensive, for example if the loss
involves a simulator, whereas evaluating the network itself is cheap. Each expensive gradient defines a quadratic
surrogate of the loss in the space of the outputs (targets). The weights are then updated by m cheap steps on this
surrogate. For a batch, let z_t = f(theta_t) and G = grad sum_i l_i(z_t). The surrogates and the steps are

    paper   g(theta) = l(z_t) + <G, z - z_t> + H/2 ||z - z_t||^2,           eta = 1/H
    code    S(theta) = mean over the entries of G (z - z_t) / H + (z - z_t)^2

    theta <- theta - step grad, m times, with step sizes from a line search (Armijo condition on the surrogate)

Alternatively, any PyTorch optimizer can take the m steps (`inner_optimizer`).

The surrogate g equals l at theta_t. If l is L-smooth in z and eta <= 1/L, then g is an upper bound on l. The minimum of
g is at z_t - G/H, and the minimum of S is at z_t - G/(2H). For the same minimum, 1/H in the code must therefore be
twice the eta of the paper. Apart from this, the two surrogates only differ by a factor. The authors' code omits the
constant <G, z_t>. Here this constant is subtracted, because omitting it reduces the numerical precision. With m = 1,
each batch results in one step of SGD. As m increases, the weights approach the projected gradient step in target space.

There are several rules for the inverse step size H. `ScheduledStep` uses the schedule H, H sqrt(t) or H T^(t/T) at
batch t = 1...T. `LineSearchStep` finds H by a line search on the outputs (SSO-SLS). `AdaGradStep` uses H sqrt(sum
||G||^2), where the sum is over the batches so far. `DiagonalAdaGradStep` uses H sqrt(D), where D contains the sum of
G^2 for each sample and output; in this case, S is the mean of G (z - z_t) + H sqrt(D) (z - z_t)^2. For the logistic
loss, `LogisticNewtonStep` uses the second derivative with respect to the outputs. G can be replaced by the SVRG
estimate (`SVRG`). In most steps, this estimate needs the expensive gradients of only some samples.

Only the abstract of the paper was available, so the algorithm follows the authors' code. This implementation differs
from the authors' code in the following points. If the inner line search accepts no step, the weights do not change. In
this case, the authors' code takes the last trial step without testing it. If the gradient norm is below 1e-6, the inner
loop stops before taking the step. The authors' code stops after taking the step. The authors' MNIST loader reads only
the 10,000 test images, with values in 0...255.

In online imitation learning, each batch is a round and consists of the states that the policy visits
(`datamodules.rollouts`). The authors' policy samples actions and bounds them by a tanh, but the distance to the
expert's actions is computed without the tanh. Here the action is the clipped output of the policy. The environments are
reset in each round, whereas the authors' environments continue from one round to the next. The authors' baseline that
applies SVRG to the weights is not included.

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
