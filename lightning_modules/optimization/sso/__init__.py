"""Train with target-based surrogates: many cheap steps of the network for each expensive gradient of its loss (SSO).

When learning from a simulator, the gradient of a loss l with respect to a network's outputs z = f(theta) is expensive,
but the network is cheap. One such gradient defines a quadratic surrogate in the space of the outputs (targets); the
weights take m cheap steps on this surrogate. For a batch, at z_t = f(theta_t) and G = grad sum_i l_i(z_t):

    paper   g(theta) = l(z_t) + <G, z - z_t> + H/2 ||z - z_t||^2,           eta = 1/H
    code    S(theta) = mean over the entries of G (z - z_t) / H + (z - z_t)^2

    theta <- theta - step grad, m times, with step sizes by Armijo's condition on the surrogate.

g equals l at theta_t; for an l that is L-smooth in z, g is an upper bound of l if eta <= 1/L. Its minimum is at z_t -
G/H and that of S at z_t - G/(2H), so the code's 1/H is twice the paper's eta; apart from that they differ by a factor,
and the code's <G, z_t> by a constant, subtracted here since it costs precision. m = 1 is a step of SGD, and with
increasing m the weights approach the projected gradient step in target space.

H is scheduled, H, H sqrt(t) or H T^(t/T) at batch t = 1...T (`ScheduledStep`), or found by a line search on the outputs
(`LineSearchStep`, SSO-SLS), or H sqrt(sum ||G||^2) over the batches so far (`AdaGradStep`), or H sqrt(D) with sums D of
G^2 for each sample and output (`DiagonalAdaGradStep`), where S = mean of G (z - z_t) + H sqrt(D) (z - z_t)^2.

Theory and curves are from the paper, of which only the abstract was available. The algorithm follows the authors' code.
Differences from the code: if the inner search accepts no step, the weights stay unchanged (the code takes the last
step, untested). The inner loop stops before, not after, a step whose gradient is below 1e-6. The authors' MNIST loader
reads only the 10,000 test images, with values in 0...255.

In online imitation learning, a batch is a round of states visited by the policy (`datamodules.rollouts`). The authors'
policy samples actions and bounds them by a tanh, which the distance to the expert's actions ignores; here the action is
the policy's clipped output. The authors' environments continue from one round to the next; here each round resets the
environments. The authors' baseline SVRG is not included.

Source: Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based Surrogates for Stochastic Optimization, ICML
2023, arXiv 2302.02607.
"""

from lightning_modules.optimization.sso.descent import Descent, LineSearchDescent
from lightning_modules.optimization.sso.module import SSO
from lightning_modules.optimization.sso.target_steps import (
    AdaGradStep,
    DiagonalAdaGradStep,
    LineSearchStep,
    ScheduledStep,
    TargetStep,
)

__all__ = [
    "SSO",
    "AdaGradStep",
    "Descent",
    "DiagonalAdaGradStep",
    "LineSearchDescent",
    "LineSearchStep",
    "ScheduledStep",
    "TargetStep",
]
