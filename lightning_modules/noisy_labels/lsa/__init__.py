"""PLS-LSA: train classifiers on web images, of which some are mislabelled and some are out of distribution.

The method detects noisy images, guesses pseudo-labels for them, and trains on the guesses, weighted by their
reliability. With small loss as the only detector, the method is PLS; PLS-LSA+ trains two networks. After a few epochs
of plain mixup, each epoch ends with a sweep over the training set. The sweep flags noisy images, alternately by linear
separation of features and by small loss (see `detection`), and computes weights for the guesses. In the next epoch, the
target of a noisy image is its sharpened guess, weighted by the reliability of the guess. Its input is the strong view,
if there is one. A supervised contrastive term attracts images of the same target (equations in `objective`).

The module augments images on the device, with several views of each image. The DataModule must not augment: do not set
`augmentation`, and set `min_area: null` if the image set has that argument. Networks with batch normalisation compute
guesses in training mode, as in the authors' code. `warmup_epochs` is the number of epochs with plain mixup. With a
warm-up of 0, the code of LSA trains one such epoch; with a warm-up of W, the code of PLS trains W epochs.

PLS needs `detectors: [loss]`, `guess_views: 2`, `penalty: true`, `confidence_contrast: true` and no `strong_view`.
The input of a noisy image is then the first of the two views from which its guess is computed. The code of PLS starts
to weight the guesses one epoch later than this module.

In PLS-LSA+, an epoch has two passes: one trains f_1, the other f_2. The guess for an image is the sharpened mean of the
predictions of both networks. During plain mixup, the guess is the prediction of the trained network alone. At the end
of an epoch, each network scores all training images. It uses the guesses that were tracked while the other network was
trained. An image is noisy if both networks flag it. Its weight is the mean of the weights from both networks. The
prediction is the mean of both networks' logits. The authors' code keeps one table of guesses, so that the pass of f_2
overwrites the guesses of f_1. Here, each pass has its own table, as the names of two variables in the code suggest. In
the released code, f_2 copies the weights of the images before the mean is taken. f_2 is therefore trained with the
weights from f_1 alone, and images that only f_1 flags also get weights below 1. Here both networks use the mean
weights, as in the paper's text.

Source: Albert, Arazo, O'Connor and McGuinness, An accurate detection is not all you need to combat label noise in
web-noisy datasets, ECCV 2024, arXiv 2407.05528; PLS: the same authors, Is your noise correction noisy? PLS: Robustness
to label noise with two stage detection, WACV 2023, arXiv 2210.04578. In other differences between text and code, this
module follows the authors' code.
"""

from lightning_modules.noisy_labels.lsa.module import PLSLSA, PLSLSAPlus

__all__ = ["PLSLSA", "PLSLSAPlus"]
