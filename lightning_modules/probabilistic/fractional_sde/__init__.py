"""Variational inference for stochastic differential equations driven by fractional noise.

Fractional Brownian motion has no Markov state. Here this motion is approximated by a weighted sum of K
Ornstein-Uhlenbeck processes. A single Brownian motion W drives them, and together they are Markov:

    prior:     dX = b(X) dt + s(X) sum_k omega_k dY_k,   dY_k = -gamma_k Y_k dt + dW,
    posterior: the same with dY_k = (-gamma_k Y_k + u(t, X, Y)) dt + dW,
    loss:      E[-log p(observed | X)] + E int |u|^2 / 2 dt  (+ KL(q(x_0) || p(x_0)), if X(0) is unknown).

The speeds gamma_k form a geometric sequence. The weights omega(H) that minimise the mean squared error have a closed
form. This form is differentiable in the Hurst index H. H can therefore be learned with the same loss. Type I has
stationary increments and a stationary Y(0). The posterior does not change Y(0). The evidence lower bound therefore has
a gap, which grows towards H = 0 and H = 1. Type II has no past before time 0. The network u is 0 initially.

For paths and videos (`FractionalLatentSDE`), X is latent. An encoder maps the observations to the distribution of X(0)
and to the input of the control. This input is interpolated between observations. A decoder maps X and time-invariant
content to observations. Frames are compared by squared error. Predictions follow the posterior up to the last given
frame, and the prior afterwards. This is our interpretation.

A bridge (`FractionalBridge`) is observed only once, at the end. Its exact solution is known. Closed forms exist for two
references: the standard deviation for fractional Brownian motion itself, and the minimum loss for the approximate
noise.

The following points differ from the code of the authors. Q(alpha, z) e^z is computed with 31 levels of a continued
fraction. The authors use 5 levels, which changes weights by 1e-6. With 5 levels, the weights agree to 1e-9. Bridges are
compared with the motion that the weights approximate. The variance of this motion has the factor V_H: 3.5 at H = 0.1, 1
at 0.5, and 1.9 at 0.9. The code of the authors lacks this factor. With a pull theta, the motion starts at 0. In the
code of the authors, it has a past: it is the stationary process conditioned on being 0 at the start. The mean squared
error of type I is exact. The code of the authors lacks a factor 2, and V_H. The divergence of a path is summed over its
dimensions. The training of the authors uses the mean, which is a sixth of the sum for six dimensions. Layers use the
initialisation and normalisation of PyTorch. The authors add 1e-6 to variances instead of 1e-5. The scale of p(x_0) is
parametrised by an exponential. Weights from a Riemann sum are omitted.

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
