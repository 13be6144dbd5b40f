"""Train with target-based surrogates: many cheap steps of the network for one expensive gradient of its loss (SSO).

Where the gradient of a loss l by a network's outputs z = f(theta) is expensive and the network cheap, as in learning
from a simulator, one such gradient makes a quadratic surrogate in the space of the outputs (targets), on which the
weights take m cheap steps. Of a batch, at z_t = f(theta_t) and G = grad sum_i l_i(z_t):

    paper   g(theta) = l(z_t) + <G, z - z_t> + H/2 ||z - z_t||^2,           eta = 1/H
    code    S(theta) = mean over the entries of G (z - z_t) / H + (z - z_t)^2

    theta <- theta - step grad,   m times, each step by Armijo's condition on the surrogate.

g touches l at theta_t, and lies above it where eta <= 1/L for an l that is L-smooth in z. Its least value is at
z_t - G/H and that of S at z_t - G/(2H), so that the code's 1/H is the paper's eta times two; beside that they differ by
a factor, and the code's <G, z_t> by a constant, which is subtracted here because it costs digits. m = 1 is a step of
SGD, and as m grows the weights go to the projected gradient step in the space of targets.

H is scheduled, H, H sqrt(t) or H T^(t/T) at batch t = 1...T (`ScheduledStep`), or found by a line search on the outputs
(`LineSearchStep`, SSO-SLS), or H sqrt(sum ||G||^2) over the batches so far (`AdaGradStep`), or H sqrt(D) with sums D of
G^2 for each sample and output (`DiagonalAdaGradStep`), where S = mean of G (z - z_t) + H sqrt(D) (z - z_t)^2.

Theory and curves are the paper's, of which the abstract was at hand; the algorithm is that of the authors' code. Here
it differs in this: where no try of the inner search is accepted, the weights stay (there they take the last step,
untested), and the inner loop ends before a step whose gradient is below 1e-6, not after it. Their loader of MNIST reads
the 10,000 test images, in 0...255.

In on-line imitation a batch is a round of states that the policy visits (`datamodules.rollouts`). The authors' policy
draws its actions and bounds them by a tanh, which their distance to the expert's leaves out, and an environment goes on
from one round to the next; here the policy acts by its output, clipped, and environments begin each round anew. Of
their baselines SVRG is not here.

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
