"""Choose learning rates by the batch size, or while training, from the curvature that batches of it have.

The Hessian of a batch of B samples has greater extreme eigenvalues than that of all N. With b = B / (1 - B / N), and
noise as a symmetric random matrix has, random matrix theory gives

    lambda_B = lambda + (P sigma^2 / b) / lambda  where |lambda| > sigma sqrt(P / b),  else 2 sigma sqrt(P / b)

for P weights and variances sigma^2 / b of the entries, so that the largest stable rate of SGD, 2 / lambda_B, rises
linearly with B until it saturates at 2 / lambda; that of Adam, whose preconditioner falls with the root of B itself,
rises with that root, and the least damping of a second-order method falls as eta / B (`reference_batch_size`).

The noise of networks is no such matrix: it is concentrated in few directions and few samples. So the constant of

    lambda_B = lambda + c / b

is fitted (`BatchSpectra`), and the prediction for isotropic noise stands beside it. That has P sigma^2 from the scatter
of products, as E |(H_i - H) z|^2 = P sigma^2 / b for random unit vectors z.

In the demo's network, six seeds, (lambda_B - lambda) B is the same within a factor of 1.9 to 3.4 over B = 8 to 128.
The fall is slower than 1 / B, with exponents of -0.60 to -0.78: few batches of 8 have one of the samples that curve
much, and the greatest eigenvalues of all samples lie close to each other, which mixes them. The isotropic constant is a
two-hundredth of the fitted one, and explains 0.6 to 1.0 % of the shift of batches of 8.

`OnlineLearner` takes L = max |theta| and mu, a small one, from Ritz values theta of the Hessian on fixed training
images and sets the optimizer's rate, and momentum, every few epochs, by one of five rules (`learned`).

Departures from the authors' code: Polyak's momentum has sqrt mu where their script has mu; the minimum is over Ritz
values with their own weights, which the script sorts apart; their heavy-ball rule for a median and for a minimum is one
with `least`; `signed` leaves out negative curvature; values that are not positive and finite are not set. H is of the
mean cross-entropy, without weight decay and dropout, and statistics of BatchNorm are those of each of a product's
batches, or the running ones as training left them, which their code renews before.

Not here: products with H - G, the Lanczos optimiser, K-FAC (any optimizer with a `damping` has that scaled), and the
law of Gauss and Newton's matrix, whose spectrum can be measured. The abstract, the code and the theory of additive
spikes were at hand; the paper's text was not.

Source: Granziol, Zohren and Roberts, Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to
Neural Network Training, JMLR 23(173), 2022, arXiv 2006.09092.
"""

from lightning_modules.dynamics.batch_lr.learner import OnlineLearner as OnlineLearner
from lightning_modules.dynamics.batch_lr.module import BatchLR as BatchLR
from lightning_modules.dynamics.batch_lr.spectra import BatchSpectra as BatchSpectra
