"""Train by SGD at a temperature until every point is fitted, and measure what the noise did.

A network f(w, x) with one output predicts the sign y of a point by F(x) = f(w, x) - f(w_0, x). With the scale alpha,
which is large where training is lazy and small where features are learned, the loss of a batch is

    l = mean max(0, 1 - alpha y F(x)) / alpha,    w <- w - dt grad l,    T = dt / B,

on batches of B points that are drawn anew for every iteration, without replacement. Training stops when all points are
fitted, alpha y F >= 1: the loss and with it every gradient is then zero. The time t* = dt times the iterations until
then, the change of the weights, and that of the tangent kernel K, mean (K - K_0)^2 / mean K^2, say which regime it was:
for P points the paper finds t* ~ T P^b, |w - w_0| ~ T^delta P^gamma and noise that matters from T_c ~ P^-a on.

A perceptron f = w . x / sqrt(d) on points whose density near the boundary is |x_1|^chi has, by a scaling argument for
vanishing margins, gamma = 1 / (1 + chi), b = 1 + 2 / (1 + chi) and delta = 1, so that a = gamma / delta. From w = 0 and
with alpha infinite, a margin of zero, everything is linear in T.

Test errors of even and odd MNIST digits in % by `configs/sgd_noise/mnist.yaml`, one seed, 10,000 test images
([picture](images/sgd_noise_mnist.png)): noise raises them where training is lazy, from 9.8 to 12.5 %, and lowers them
where features are learned, from 9.5 to 5.7 %, until it diverges; the lowest is in between, 5.5 %. From T = 1 on the
kernel changes at large alpha, too.

| alpha | T = 1/64 | 1/16 | 1/4 | 1 | 4 | 16 |
| --- | --- | --- | --- | --- | --- | --- |
| 4096 | 9.8 | 10.2 | 10.5 | 11.2 | 12.5 | diverges |
| 256 | 9.7 | 9.7 | 9.5 | 10.6 | 11.2 | diverges |
| 16 | 10.5 | 10.1 | 9.4 | 8.4 | 7.2 | diverges |
| 1 | 9.5 | 8.9 | 7.4 | 6.4 | 5.7 | diverges |
| 1/16 | 8.2 | 6.7 | 5.9 | 5.5 | diverges | diverges |
| 1/256 | 6.4 | 6.0 | diverges | diverges | diverges | diverges |

`iterations_per_step` iterations are one training step. Where few points are left, most batches change nothing; they are
looked at many at a time and passed over, which changes neither the weights nor the number of iterations (`descend`).
Training stops at the end of the epoch in which the last point was fitted; t* is that of the iteration. It also stops
where the loss is not finite, which is a result: `test/diverged` is then 1. Several processes share each batch, and T is
that of the whole batch.

Differences from the authors' code: t* is exact, where theirs is that of the checkpoint which found the loss to be zero;
their `temp` is T / h for a network of width h; observables are measured at ends of epochs, when the iterations have
grown by a quarter. Not here: the quadratic and the soft hinge, regularisers, their stochastic differential equation,
and the change of the outputs in one step.

Source: Sclocchi, Geiger and Wyart, Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning, ICML 2023,
arXiv 2301.13703.
"""

from lightning_modules.dynamics.sgd_noise.module import SGDNoise as SGDNoise
