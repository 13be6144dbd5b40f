"""Variational inference of stochastic differential equations that are driven by fractional noise.

Fractional Brownian motion has no state from which it goes on. Here it is approximated by a weighted sum of K
Ornstein-Uhlenbeck processes on one Brownian motion W, which together have one:

    prior:     dX = b(X) dt + s(X) sum_k omega_k dY_k,   dY_k = -gamma_k Y_k dt + dW,
    posterior: the same with dY_k = (-gamma_k Y_k + u(t, X, Y)) dt + dW,
    loss:      E[-log p(observed | X)] + E int |u|^2 / 2 dt  (+ KL(q(x_0) || p(x_0)), where X(0) is not known).

The speeds gamma_k are geometric, and the weights omega(H) those of least mean squared error, in closed form and
differentiable in the Hurst index H, which can so be learned by the same loss. Type I has stationary increments and a
stationary Y(0), which the posterior leaves as it is; so its bound has a gap, which grows towards H = 0 and 1. Type II
begins without a past. The network u begins as 0.

Paths and videos (`FractionalLatentSDE`) have a hidden X, an encoder of their observations, which tells the law of X(0)
and, between two observations as a mixture of both, the control, and a decoder of X and of what stays the same. Frames
count by their squared error. Predictions follow the posterior through the given frames and the prior afterwards, which
is our reading.

A bridge (`FractionalBridge`) is the case whose truth is known: a path that is seen once, at the end. Its exact standard
deviation is that of fractional Brownian motion itself, and the least loss that of the approximated noise, both in
closed form.

Departures from the authors' code. Q(alpha, z) e^z has 31 levels of a continued fraction, theirs 5, which moves weights
by 1e-6; with 5 they are theirs to 1e-9. Bridges are compared with the motion that the weights aim at, whose variance
has the factor V_H (theirs lacks it: 3.5 at H = 0.1, 1 at 0.5, 1.9 at 0.9), and which with a pull theta begins at 0
(theirs is the stationary process given that it is 0 there, which has a past). The mean squared error of type I is what
it says (theirs lacks a factor 2, and V_H). The divergence of a path is the sum over its dimensions (theirs becomes
their mean in training, a sixth of it for six). Layers begin, and normalise, as PyTorch's do (theirs add 1e-6 to
variances, not 1e-5), the scale of p(x_0) is an exponential, and weights of a Riemann sum are left out.

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
