"""Choose learning rates from the curvature of batches, by batch size or online during training.

The Hessian of a batch of B samples has larger extreme eigenvalues than the Hessian of all N samples. With b = B / (1 -
B / N) and the noise of a symmetric random matrix, random matrix theory gives

    lambda_B = lambda + (P sigma^2 / b) / lambda  where |lambda| > sigma sqrt(P / b),  else 2 sigma sqrt(P / b)

Here P is the number of weights, and the noise's entries have variance sigma^2 / b. So the largest stable learning rate
of SGD, 2 / lambda_B, grows linearly with B until it saturates at 2 / lambda. The largest stable learning rate of Adam
grows with sqrt(B), because its preconditioner itself shrinks with sqrt(B). The smallest damping of a second-order
method falls as eta / B (`reference_batch_size`).

The noise of real networks is not such a matrix: it is concentrated in few directions and few samples. So the constant c
is fitted (`BatchSpectra`) in

    lambda_B = lambda + c / b

It is reported next to the prediction for isotropic noise, where P sigma^2 is estimated from the variance of
Hessian-vector products: E |(H_i - H) z|^2 = P sigma^2 / b for random unit vectors z.

In the demo's network, over six seeds, (lambda_B - lambda) B is constant within a factor of 1.9 to 3.4 for B = 8 to 128.
The decrease is slower than 1 / B, with exponents of -0.60 to -0.78: few batches of 8 contain one of the samples of high
curvature, and the largest eigenvalues of the full Hessian are close together, so they mix. The isotropic constant is
1/200 of the fitted constant, and explains 0.6 to 1.0 % of the shift of batches of 8.

`OnlineLearner` reads L = max |theta| and a small curvature mu from Ritz values theta of the Hessian on fixed training
images. Every few epochs it sets the optimizer's learning rate, and momentum, by one of five rules (`learned`).

Departures from the authors' code: Polyak's momentum has sqrt mu where their script has mu; each Ritz value keeps its
own weight in the minimum, whereas the script sorts values and weights separately. Their heavy-ball rules for a median
and for a minimum are one rule with `least`. `signed` ignores negative curvature. Values that are not positive and
finite are not set. H is the Hessian of the mean cross-entropy, without weight decay and dropout. BatchNorm uses the
statistics of each batch of a product or the running statistics, which the authors' code recomputes first.

Not implemented: products with H - G, the Lanczos optimiser, K-FAC (the `damping` of any optimizer is scaled), and the
scaling law of the Gauss-Newton matrix, although its spectrum can be measured. This implementation is based on the
abstract, the code and the theory of additive spikes; the paper's full text was not available.

Source: Granziol, Zohren and Roberts, Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to
Neural Network Training, JMLR 23(173), 2022, arXiv 2006.09092.
"""

from lightning_modules.dynamics.batch_lr.learner import OnlineLearner as OnlineLearner
from lightning_modules.dynamics.batch_lr.module import BatchLR as BatchLR
from lightning_modules.dynamics.batch_lr.spectra import BatchSpectra as BatchSpectra
