"""Train by SGD at a given temperature until every point is fitted, and measure the effect of the noise.

A network f(w, x) with one output predicts the sign y of a point by F(x) = f(w, x) - f(w_0, x). With the scale alpha,
large for lazy training and small for feature learning, the loss of a batch is

    l = mean max(0, 1 - alpha y F(x)) / alpha,    w <- w - dt grad l,    T = dt / B.

Batches of B points are sampled without replacement in every iteration. Training stops when all points are fitted, alpha
y F >= 1: then the loss and all gradients are zero. Three measurements show the regime: the training time t* (dt times
the number of iterations), the change of the weights, and the change of the tangent kernel K, mean (K - K_0)^2 / mean
K^2. For P points the paper finds t* ~ T P^b and |w - w_0| ~ T^delta P^gamma, and that noise matters above T_c ~ P^-a.

For a perceptron f = w . x / sqrt(d) on points whose density near the boundary is |x_1|^chi, a scaling argument for
vanishing margins gives gamma = 1 / (1 + chi), b = 1 + 2 / (1 + chi), delta = 1 and a = gamma / delta. With w_0 = 0 and
infinite alpha (zero margin), everything is linear in T.

The table shows test errors in % for even versus odd MNIST digits with `configs/sgd_noise/mnist.yaml`, from one seed and
10,000 test images ([picture](images/sgd_noise_mnist.png)). Noise raises the error in lazy training, from 9.8 to 12.5 %.
Noise lowers the error in feature learning, from 9.5 to 5.7 %, until training diverges. The lowest error, 5.5 %, is at
alpha = 1/16. From T = 1 on, the kernel also changes at large alpha.

| alpha | T = 1/64 | 1/16 | 1/4 | 1 | 4 | 16 |
| --- | --- | --- | --- | --- | --- | --- |
| 4096 | 9.8 | 10.2 | 10.5 | 11.2 | 12.5 | diverges |
| 256 | 9.7 | 9.7 | 9.5 | 10.6 | 11.2 | diverges |
| 16 | 10.5 | 10.1 | 9.4 | 8.4 | 7.2 | diverges |
| 1 | 9.5 | 8.9 | 7.4 | 6.4 | 5.7 | diverges |
| 1/16 | 8.2 | 6.7 | 5.9 | 5.5 | diverges | diverges |
| 1/256 | 6.4 | 6.0 | diverges | diverges | diverges | diverges |

The effect of noise comes late in training. For the bundled digits with alpha = 1 (`configs/sgd_noise/demo_course.yaml`
and `demo_course_baseline.yaml`, four seeds), the times until half, nine tenths and all of the training points are
fitted are 480, 3,440 and 17,400 at T = 2, and 280, 2,000 and 5,400 at T = 1/16. At T = 2, times are measured every 320.
So the noise prolongs the first two periods by a factor of 1.7, and the whole training by a factor of 3.2. The last
tenth of the points takes 80 and 63 % of the time.

One training step runs `iterations_per_step` iterations. If few unfitted points are left, most batches do not change the
weights. These batches are evaluated in groups and skipped; this changes neither the weights nor the number of
iterations (`descend`). Training stops at the end of the epoch in which the last point was fitted; t* refers to the
exact iteration. Training also stops if the loss is not finite. This is a result, not an error: `test/diverged` is then
1. Each batch is sharded over ranks, and T refers to the global batch.

`loss` is the hinge, its square or a soft hinge, phi(alpha y F) / alpha. `dynamics: sde` replaces SGD by full-batch
descent with Gaussian noise of the same strength (`diffuse`). In the perceptron with chi = 1, the exponents over P with
the soft hinge are .50(5) for the weight w_1 and 1.8(3) for t* (hinge: .45(2) and 1.7(1), over 1,024 to 16,384 points).
Over 256 to 2,048 points, the exponents of the SDE are .46(6) and 1.3(1), and those of SGD are .46(1) and 1.55(5).

Departures from the authors' code: t* is exact here; the authors' t* is the time of the first checkpoint with zero loss.
The authors' `temp` is T / h for a network of width h. Observables are measured at the end of an epoch if the number of
iterations has grown by a quarter since the last measurement. Not implemented: regularisers, and the change of the
outputs in one step.

Source: Sclocchi, Geiger and Wyart, Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning, ICML 2023,
arXiv 2301.13703.
"""

from lightning_modules.dynamics.sgd_noise.module import SGDNoise as SGDNoise
