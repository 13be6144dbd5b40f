"""Variational inference for stochastic differential equations driven by fractional noise.

Fractional Brownian motion has no Markov state. Here this motion is approximated by a weighted sum of K
Ornstein-Uhlenbeck processes driven by one Brownian motion W; together, the processes are Markov:

    prior:     dX = b(X) dt + s(X) sum_k omega_k dY_k,   dY_k = -gamma_k Y_k dt + dW,
    posterior: the same with dY_k = (-gamma_k Y_k + u(t, X, Y)) dt + dW,
    loss:      E[-log p(observed | X)] + E int |u|^2 / 2 dt  (+ KL(q(x_0) || p(x_0)), if X(0) is unknown).

The speeds gamma_k form a geometric sequence. The weights omega(H) that minimise the mean squared error have a closed
form, which is differentiable in the Hurst index H; H can therefore be learned with the same loss. Type I has stationary
increments and a stationary Y(0). The posterior leaves Y(0) unchanged, so the evidence lower bound has a gap, which
grows towards H = 0 and 1. Type II has no past before time 0. The network u is initialised to 0.

For paths and videos (`FractionalLatentSDE`), X is latent. An encoder of the observations predicts the distribution of
X(0) and the control's input; this input is interpolated between observations. A decoder maps X and time-invariant
content to observations. Frames are compared by squared error. Predictions follow the posterior through the given frames
and the prior afterwards, which is our interpretation.

A bridge (`FractionalBridge`) is observed only once, at the end, and its exact solution is known. Closed forms exist for
two references: the standard deviation for fractional Brownian motion itself, and the minimum loss for the approximated
noise.

The following points depart from the authors' code. Q(alpha, z) e^z is computed with 31 levels of a continued fraction;
the authors use 5, which changes weights by 1e-6. With 5 levels, the weights agree to 1e-9. Bridges are compared with
the motion that the weights approximate. The variance of this motion has the factor V_H, which the authors' code lacks:
3.5 at H = 0.1, 1 at 0.5, and 1.9 at 0.9. With a pull theta, the motion starts at 0; in the authors' code, it is the
stationary process conditioned on being 0 at the start, and has a past. The mean squared error of type I is exact (the
authors' code lacks a factor 2, and V_H). The divergence of a path is summed over its dimensions; the authors' training
uses the mean, a sixth of the sum for six dimensions. Layers use PyTorch's initialisation and normalisation (the authors
add 1e-6 to variances, not 1e-5). The scale of p(x_0) is parametrised by an exponential, and weights from a Riemann sum
are omitted.

Source: Daems, Opper, Crevecoeur and Birdal, Variational Inference for SDEs Driven by Fractional Noise, ICLR 2024,
arXiv 2310.12975.
"""

from lightning_modules.probabilistic.fractional_sde.bridge import FractionalBridge
from lightning_modules.probabilistic.fractional_sde.module import FractionalLatentSDE
from lightning_modules.probabilistic.fractional_sde.networks import FrameDecoder, FrameEncoder
from lightning_modules.probabilistic.fractional_sde.noise import BrownianNoise, FractionalNoise

__all__ = [
    "BrownianNoise",
    "FractionalBridge",
    "FractionalLatentSDE",
    "FractionalNoise",
    "FrameDecoder",
    "FrameEncoder",
]
