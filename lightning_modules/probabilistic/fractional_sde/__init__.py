"""Variational inference for stochastic differential equations driven by fractional noise.

Fractional Brownian motion is not a Markov process. Here it is approximated by a weighted sum of K Ornstein-Uhlenbeck
processes Y_k. A single Brownian motion W drives all Y_k, so that X and the Y_k together are Markov:

    prior:     dX = b(X) dt + s(X) sum_k omega_k dY_k,   dY_k = -gamma_k Y_k dt + dW,
    posterior: the same with dY_k = (-gamma_k Y_k + u(t, X, Y)) dt + dW,
    loss:      E[-log p(observed | X)] + E int |u|^2 / 2 dt  (+ KL(q(x_0) || p(x_0)), if X(0) is unknown).

The mean-reversion speeds gamma_k form a geometric sequence. The weights omega(H) that minimise the mean squared error
of the approximation have a closed form. The closed form is differentiable in the Hurst index H, so H can be learned
with the same loss. Fractional motion of type I has stationary increments, and its Y(0) has the stationary distribution.
In the posterior, Y(0) keeps its prior distribution. The evidence lower bound therefore has a gap, which grows as H
approaches 0 or 1. Fractional motion of type II starts at time 0, with Y(0) = 0. The network u is initialised so that
its output is 0.

For paths and videos (`FractionalLatentSDE`), X is latent. An encoder maps the observations to the distribution of X(0)
and to features, which are an input of the control u. Between the times of the observations, the features are
interpolated. A decoder maps X and time-invariant content to observations. For a video, the first term of the loss is
the squared error of its frames. Predictions follow the posterior up to the last given frame, and the prior afterwards.
This way of predicting is this project's interpretation of the paper.

A bridge (`FractionalBridge`) is a path with a single observation, at its end. The exact solution of a bridge is known.
Two references for comparison have closed forms: the standard deviation of the bridge of exact fractional Brownian
motion, and the minimum loss for the approximate noise.

This implementation differs from the authors' code in the following points. The incomplete gamma function in the
weights, Q(alpha, z) e^z, is computed with 31 levels of a continued fraction. The authors use 5 levels, which changes
the weights by 1e-6. If 5 levels are used here as well, the weights agree to 1e-9. Bridges are compared with the
fractional motion that the weighted sum approximates. The variance of this motion contains the factor V_H, which is 3.5
at H = 0.1, 1 at H = 0.5, and 1.9 at H = 0.9. The authors' code lacks this factor. With a drift -theta x, paths start at
0 here. In the authors' code, a path with such a drift is the stationary process, conditioned on being 0 at the start.
The mean squared error of type I is exact here. The authors' code lacks a factor 2 and the factor V_H in this error. The
divergence of a path is summed over its dimensions. The authors' training code uses the mean over dimensions, which is a
sixth of the sum for six dimensions. Layers use the default initialisation of PyTorch. Normalisation layers add
PyTorch's default of 1e-5 to variances, where the authors add 1e-6. The scale of p(x_0) is parametrised by an
exponential. The authors' option to compute the weights by a Riemann sum is omitted.

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
