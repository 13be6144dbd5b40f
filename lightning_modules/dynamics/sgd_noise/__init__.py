"""Train by SGD at a given temperature until every point is fitted, and measure the effect of the gradient noise.

A network f(w, x) with one output predicts the sign y of a point by F(x) = f(w, x) - f(w_0, x). The loss of a batch
depends on a scale alpha, which is large for lazy training and small for feature learning:

    l = mean max(0, 1 - alpha y F(x)) / alpha,    w <- w - dt grad l,    T = dt / B.

In every iteration, a batch of B points is sampled without replacement. Training stops when all points are fitted, that
is, alpha y F >= 1, because the loss and all gradients are then zero. Three measurements show the regime of training:
the training time t* (dt times the number of iterations), the change of the weights, and the change of the tangent
kernel K, mean (K - K_0)^2 / mean K^2. For P points, the paper finds t* ~ T P^b and |w - w_0| ~ T^delta P^gamma, and
finds that the noise matters above T_c ~ P^-a.

Consider a perceptron f = w . x / sqrt(d), and points whose density near the decision boundary is proportional to
|x_1|^chi. A scaling argument for vanishing margins gives gamma = 1 / (1 + chi), b = 1 + 2 / (1 + chi), delta = 1 and a
= gamma / delta. With w_0 = 0 and infinite alpha (zero margin), t* and the weights are exactly proportional to T.

The table shows test errors in % for even versus odd MNIST digits with `configs/sgd_noise/mnist.yaml`, from one seed and
10,000 test images ([picture](images/sgd_noise_mnist.png)). In lazy training (alpha = 4096), noise increases the error
from 9.8 to 12.5 %. In feature learning (alpha = 1), noise decreases the error from 9.5 to 5.7 %, until training
diverges. The lowest error, 5.5 %, is reached at alpha = 1/16. From T = 1 on, the kernel also changes at large alpha.

| alpha | T = 1/64 | 1/16 | 1/4 | 1 | 4 | 16 |
| --- | --- | --- | --- | --- | --- | --- |
| 4096 | 9.8 | 10.2 | 10.5 | 11.2 | 12.5 | diverges |
| 256 | 9.7 | 9.7 | 9.5 | 10.6 | 11.2 | diverges |
| 16 | 10.5 | 10.1 | 9.4 | 8.4 | 7.2 | diverges |
| 1 | 9.5 | 8.9 | 7.4 | 6.4 | 5.7 | diverges |
| 1/16 | 8.2 | 6.7 | 5.9 | 5.5 | diverges | diverges |
| 1/256 | 6.4 | 6.0 | diverges | diverges | diverges | diverges |

The effect of noise is strongest late in training. It was measured on the bundled digits with alpha = 1 and four seeds
(`configs/sgd_noise/demo_course.yaml` and `demo_course_baseline.yaml`). At T = 2, the times until half, nine tenths and
all of the training points are fitted are 480, 3,440 and 17,400. At T = 1/16, these times are 280, 2,000 and 5,400. At T
= 2, the times have a resolution of 320. The noise therefore increases the first two times by a factor of 1.7, and the
total training time by a factor of 3.2. Fitting the last tenth of the points takes 80 % of the time at T = 2, and 63 %
at T = 1/16.

Each training step runs `iterations_per_step` iterations. If only few points are not fitted, most batches do not change
the weights. Such batches are evaluated in groups and skipped, which changes neither the weights nor the number of
iterations (see `descend`). Training stops at the end of the epoch in which the last point was fitted, but t* refers to
the exact iteration. Training also stops if the loss is not finite. This case is treated as a result and not as an
error: `test/diverged` is then 1. Each batch is sharded over ranks, and T refers to the global batch.

In general, the loss is phi(alpha y F) / alpha, where phi is the hinge, its square or a soft hinge (`loss`). `dynamics:
sde` replaces SGD by full-batch descent with Gaussian noise of the same strength (see `diffuse`). For the perceptron
with chi = 1, the exponents of P were measured. With the soft hinge, they are .50(5) for the weight w_1 and 1.8(3) for
t*. With the hinge, they are .45(2) and 1.7(1). These exponents are for 1,024 to 16,384 points. For 256 to 2,048 points,
the exponents of the SDE are .46(6) and 1.3(1), and those of SGD are .46(1) and 1.55(5).

This implementation differs from the authors' code in the following points. t* is exact here. The authors' t* is the
time of the first checkpoint with zero loss. The authors' parameter `temp` equals T / h for a network of width h. Here
observables are measured at the end of an epoch if the number of iterations has grown by a quarter since the last
measurement. Regularisers and the change of the outputs in one step are not implemented.

Source: Sclocchi, Geiger and Wyart, Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning, ICML 2023,
arXiv 2301.13703.
"""

from lightning_modules.dynamics.sgd_noise.module import SGDNoise as SGDNoise
