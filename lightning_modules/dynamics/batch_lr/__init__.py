"""Choose learning rates from the curvature of batches, by batch size or online during training.

The Hessian of a batch of B samples has larger extreme eigenvalues than the Hessian of all N samples. If the noise is a
symmetric random matrix, random matrix theory gives, with b = B / (1 - B / N),

    lambda_B = lambda + (P sigma^2 / b) / lambda  where |lambda| > sigma sqrt(P / b),  else 2 sigma sqrt(P / b)

Here P is the number of weights, and the noise's entries have variance sigma^2 / b. The largest stable learning rate of
SGD, 2 / lambda_B, therefore grows linearly with B until it saturates at 2 / lambda. The largest stable learning rate of
Adam grows with sqrt(B), because the preconditioner of Adam shrinks with sqrt(B). The smallest damping of a second-order
method falls as eta / B (`reference_batch_size`, `least_damping`).

In real networks this assumption fails: the noise is concentrated in few directions and few samples. `BatchSpectra`
therefore fits the constant c in

    lambda_B = lambda + c / b

The fitted c is reported next to the prediction for isotropic noise. The prediction estimates P sigma^2 from the
variance of Hessian-vector products: E |(H_i - H) z|^2 = P sigma^2 / b for random unit vectors z.

In the network of the demo, over six seeds, (lambda_B - lambda) B varies by a factor of 1.9 to 3.4 for B = 8 to 128.
lambda_B - lambda falls more slowly than 1 / B, with exponents of -0.60 to -0.78. Two reasons are that few batches of 8
contain a sample of high curvature, and that the largest eigenvalues of the full Hessian are close together. The
constant of isotropic noise is 1/200 of the fitted constant. It explains 0.6 to 1.0 % of the shift lambda_B - lambda at
B = 8.

`OnlineLearner` computes L = max |theta| and a small curvature mu from Ritz values theta of the Hessian on fixed
training images. Every few epochs, one of five rules sets the optimizer's learning rate and, for some rules, momentum
(`learned`).

On the bundled digits, the learner (`ssgdm`) with the curvature of 32 images starts at a rate of 0.002 and reaches a
test accuracy of .916 +- .020 over three seeds (`configs/batch_lr/demo_learner_small_rate.yaml`). The constant rate
0.002 gives .156 +- .028, and the best constant rate of a grid gives .912 +- .018. With the curvature of 1,024 images,
the accuracy of one run was .37: the batches of 50 images have a larger curvature, so the rates of 1 to 3 are too
large.

Departures from the authors' code: Polyak's momentum has sqrt mu where the script has mu. In the minimum, each Ritz
value keeps its weight; the script sorts values and weights separately. The authors have two heavy-ball rules, for the
median and for the minimum. Here they are one rule with the option `least`. `signed` ignores negative curvature.
Settings that are not positive and finite are discarded. H is the Hessian of the mean cross-entropy, without weight
decay and dropout. In Hessian-vector products, BatchNorm uses the statistics of each batch or the running statistics.
The authors' code first recomputes the running statistics.

The Gauss-Newton matrix G of a batch (`matrix: gauss_newton`) is similar to a sample covariance. For one large
eigenvalue lambda, Marchenko-Pastur noise gives about lambda_B = lambda + (tr G - lambda) / b (`spiked_covariance`).
This law was derived here, because the paper's constant could not be read. In the network
of the demo, over three seeds, this law explains 22 % of the shift at B = 8, and isotropic noise explains 0.8 %.

Not implemented: products with H - G, the Lanczos optimiser, and K-FAC (but the `damping` of any optimizer is scaled).
This implementation is based on the abstract, the code and the theory of additive spikes; the paper's full text was not
available.

Source: Granziol, Zohren and Roberts, Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to
Neural Network Training, JMLR 23(173), 2022, arXiv 2006.09092.
"""

from lightning_modules.dynamics.batch_lr.learner import OnlineLearner as OnlineLearner
from lightning_modules.dynamics.batch_lr.module import BatchLR as BatchLR
from lightning_modules.dynamics.batch_lr.spectra import BatchSpectra as BatchSpectra
