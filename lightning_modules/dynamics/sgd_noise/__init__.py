"""Train by SGD at a given temperature until every point is fitted, and measure the effect of the gradient noise.

A network f(w, x) with one output predicts the label y, which is -1 or 1, as the sign of F(x) = f(w, x) - f(w_0, x),
where w_0 are the initial weights. The loss l of a batch depends on a scale alpha, which is large for lazy training and
small for feature learning. With learning rate dt and batch size B, the loss, the SGD update and the temperature T are

    l = mean max(0, 1 - alpha y F(x)) / alpha,    w <- w - dt grad l,    T = dt / B.

In every iteration, a batch of B points is sampled without replacement. A point is fitted if alpha y F >= 1. Training
stops when all points are fitted, because the loss and all gradients are then zero. Three measurements show the regime
of training: the training time t* (dt times the number of iterations), the change of the weights, and the change of the
tangent kernel K, mean (K - K_0)^2 / mean K^2, where K_0 is the initial kernel. For P training points, the paper finds
t* ~ T P^b and |w - w_0| ~ T^delta P^gamma. The paper also finds that the noise matters above a temperature T_c ~ P^-a.

Consider a perceptron f = w . x / sqrt(d), and points whose density near the decision boundary is proportional to
|x_1|^chi. A scaling argument for vanishing margins gives gamma = 1 / (1 + chi), b = 1 + 2 / (1 + chi), delta = 1 and a
= gamma / delta. If w_0 = 0 and alpha is infinite (zero margin), t* and the weights are exactly proportional to T.

The following table shows test errors in % for the classification of MNIST digits as even or odd with
`configs/sgd_noise/mnist.yaml`, for one seed and 10,000 test images ([picture](images/sgd_noise_mnist.png)). In lazy
training (alpha = 4096), noise increases the error from 9.8 to 12.5 %. In feature learning (alpha = 1), noise decreases
the error from 9.5 to 5.7 %, until training diverges. The lowest error, 5.5 %, is reached at alpha = 1/16. For T >= 1,
the kernel changes at large alpha too.

| alpha | T = 1/64 | 1/16 | 1/4 | 1 | 4 | 16 |
| --- | --- | --- | --- | --- | --- | --- |
| 4096 | 9.8 | 10.2 | 10.5 | 11.2 | 12.5 | diverges |
| 256 | 9.7 | 9.7 | 9.5 | 10.6 | 11.2 | diverges |
| 16 | 10.5 | 10.1 | 9.4 | 8.4 | 7.2 | diverges |
| 1 | 9.5 | 8.9 | 7.4 | 6.4 | 5.7 | diverges |
| 1/16 | 8.2 | 6.7 | 5.9 | 5.5 | diverges | diverges |
| 1/256 | 6.4 | 6.0 | diverges | diverges | diverges | diverges |

The effect of noise is strongest late in training. This was measured on the bundled digits with alpha = 1 and four seeds
(the claim on the last tenth in `configs/sgd_noise/claim.yaml`). At T = 2, the times until half, nine tenths and
all of the training points are fitted are 480, 3,440 and 17,400. At T = 1/16, these times are 280, 2,000 and 5,400. At T
= 2, the times have a resolution of 320. Compared with T = 1/16, the noise at T = 2 therefore increases the first two
times by a factor of 1.7, and the total training time by a factor of 3.2. Fitting the last tenth of the points takes 80
% of the time at T = 2, and 63 % at T = 1/16.

Each training step runs `iterations_per_step` iterations. If only a few points are not fitted, most batches do not
change the weights. Such batches are evaluated in groups and skipped, which changes neither the weights nor the number
of iterations (see `descend`). Training stops at the end of the epoch in which the last point was fitted, but t* refers
to the exact iteration. Training also stops if the loss is not finite. Divergence is treated as a result and not as an
error: `test/diverged` is then 1. Each batch is sharded over ranks, and T refers to the global batch.

The loss above is one case of phi(alpha y F) / alpha, where phi is the hinge, its square or a soft hinge (argument
`loss`). `dynamics: sde` replaces SGD by full-batch descent with Gaussian noise of the same strength (see `diffuse`).
The exponents of P in the weight w_1 and in t* were measured for the perceptron with chi = 1. With SGD on 1,024 to
16,384 points, they are .50(5) for w_1 and 1.8(3) for t* with the soft hinge, and .45(2) and 1.7(1) with the hinge. On
256 to 2,048 points, the exponents are .46(6) and 1.3(1) with the SDE, and .46(1) and 1.55(5) with SGD.

This implementation differs from the authors' code in the following points. t* is exact here. The authors' t* is the
time of the first checkpoint with zero loss. The authors' parameter `temp` equals T / h for a network of width h.
Observables are measured here at the end of an epoch if the number of iterations has grown by a quarter since the last
measurement. Regularisers and the measurement of how the outputs change in one step are not implemented.

Source: Sclocchi, Geiger and Wyart, Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning, ICML 2023,
arXiv 2301.13703.
"""

from lightning_modules.dynamics.sgd_noise.module import SGDNoise as SGDNoise
