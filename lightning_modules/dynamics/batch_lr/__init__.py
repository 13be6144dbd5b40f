"""Derive learning rates from the batch size, or from curvature that is measured during training.

The Hessian of the loss on a batch of B samples has larger extreme eigenvalues than the Hessian of the loss on all N
samples. Assume that the difference between the two Hessians is a symmetric random matrix with independent entries
(isotropic noise). Let lambda be an extreme eigenvalue for all samples, let lambda_B be the corresponding eigenvalue for
a batch, and let b = B / (1 - B / N). Random matrix theory then gives

    lambda_B = lambda + (P sigma^2 / b) / lambda  where |lambda| > sigma sqrt(P / b),  else 2 sigma sqrt(P / b)

Here P is the number of weights, and the entries of the noise have the variance sigma^2 / b. The largest stable learning
rate of SGD, 2 / lambda_B, therefore grows linearly with B until it saturates at 2 / lambda. The largest stable learning
rate of Adam is proportional to sqrt(B), because Adam's preconditioner is inversely proportional to sqrt(B). The
smallest stable damping of a second-order method is proportional to eta / B, where eta is the learning rate
(`reference_batch_size`, `least_damping`).

In real networks, the noise is not isotropic: it is concentrated in few directions and few samples. `BatchSpectra`
therefore fits the constant c in

    lambda_B = lambda + c / b

The fitted c is reported together with the prediction for isotropic noise. For this prediction, P sigma^2 is estimated
from the variance of Hessian-vector products: E |(H_i - H) z|^2 = P sigma^2 / b for random unit vectors z, where H_i is
the Hessian of batch i, and H is the Hessian of all samples.

Six seeds of the demo network gave the following results. For B = 8 to 128, the product (lambda_B - lambda) B varies by
a factor of 1.9 to 3.4. The shift lambda_B - lambda decreases more slowly than 1 / B: the exponents of B are -0.60 to
-0.78. There are two reasons: few batches of 8 samples contain a sample of high curvature, and the largest eigenvalues
of the full Hessian are close together. The constant c that the isotropic model predicts is 1/200 of the fitted
constant. The isotropic model explains 0.6 to 1.0 % of the shift at B = 8.

`OnlineLearner` computes L = max |theta| and a small curvature mu from the Ritz values theta of the Hessian on fixed
training images. Every few epochs, one of five rules sets the learning rate of the optimizer and, for some rules, also
the momentum (see `learner_settings`).

On the bundled digits, the learner with the rule `ssgdm` measures the curvature on 32 images. The learner starts at a
learning rate of 0.002 and reaches a test accuracy of .916 +- .020 over three seeds
(`configs/batch_lr/demo_learner_small_rate.yaml`). With a constant learning rate of 0.002, the accuracy is .156 +- .028.
With the best constant learning rate of a grid, the accuracy is .912 +- .018. In one run in which the curvature was
measured on 1,024 images, the accuracy was .37. The learning rates in this run, 1 to 3, are too large, because the
training batches of 50 images have a larger curvature than the 1,024 images.

This implementation differs from the authors' code in the following points. The formula for Polyak's momentum contains
sqrt mu here, where the authors' script has mu. If mu is the minimum, each Ritz value is paired with its own weight
here, whereas the authors' script sorts values and weights separately. The authors have two heavy-ball rules, one for
the median and one for the minimum. Here they are one rule with the option `least`. The option `signed` ignores negative
curvature. The computed settings are discarded unless all of them are finite and the learning rate is positive. H is the
Hessian of the mean cross-entropy, without weight decay and dropout. In Hessian-vector products, BatchNorm uses either
the statistics of each batch or the running statistics. The authors' code recomputes the running statistics before such
products.

The Gauss-Newton matrix G of a batch (`matrix: gauss_newton`) is similar to a sample covariance matrix. If G has one
large eigenvalue lambda, Marchenko-Pastur noise gives approximately lambda_B = lambda + (tr G - lambda) / b
(`spiked_covariance`). This formula was derived for this project, because the constant in the paper could not be read.
In three seeds of the demo network, the formula explains 22 % of the shift at B = 8, and the isotropic model explains
0.8 %.

Products with H - G, the Lanczos optimiser and K-FAC are not implemented. However, if an optimizer has a `damping`
setting, this setting is scaled in inverse proportion to the batch size. The implementation is based on the abstract,
the authors' code and the theory of additive spikes, because the paper's full text was not available.

Source: Granziol, Zohren and Roberts, Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to
Neural Network Training, JMLR 23(173), 2022, arXiv 2006.09092.
"""

from lightning_modules.dynamics.batch_lr.learner import OnlineLearner as OnlineLearner
from lightning_modules.dynamics.batch_lr.module import BatchLR as BatchLR
from lightning_modules.dynamics.batch_lr.spectra import BatchSpectra as BatchSpectra
