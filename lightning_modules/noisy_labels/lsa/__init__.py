"""PLS-LSA: train classifiers on web images, some mislabelled and some out of distribution.

The method detects noisy images and trains on pseudo-labels (guesses) for them, weighted by the guesses' reliability.
With small loss as the only detector, the method is PLS; PLS-LSA+ trains two networks. After a few epochs of plain
mixup, each epoch ends with a sweep over the training set. The sweep flags noisy images, alternately by linear
separation of features and by small loss (see `detection`), and computes weights for the guesses. In the next epoch, a
noisy image's target is its sharpened guess, weighted by the guess's reliability; its input is the strong view, if there
is one. A supervised contrastive term attracts images of the same target (equations in `objective`).

The module augments images on the device, with several views of each; the DataModule must not augment (no
`augmentation`, and `min_area: null` if the image set has that argument). Networks with batch normalisation compute
guesses in training mode, as in the authors' code. `warmup_epochs` counts epochs of plain mixup: at a warm-up of 0,
LSA's code trains one such epoch; at a warm-up of W, PLS's code trains W.

PLS needs `detectors: [loss]`, `guess_views: 2`, `penalty: true`, `confidence_contrast: true` and no `strong_view`.
The input of a noisy image is then the first of the two views from which its guess is computed. PLS's code starts to
weight the guesses one epoch later than this module.

In PLS-LSA+, an epoch has two passes: one trains f_1, the other f_2. An image's guess is the sharpened mean of both
networks' predictions; during plain mixup, the guess is the prediction of the trained network alone. At the end of an
epoch each network scores all training images, using the guesses tracked while the other network was trained. An image
is noisy if both networks flag it; its weight is the mean of their weights. The prediction is the mean of both networks'
logits. The authors' code keeps one table of guesses, in which f_2's pass overwrites f_1's; here each pass has its own
table, as the names of the code's two variables suggest. In the released code, f_2 gets its copy of the images' weights
before the mean is taken. So f_2 trains with f_1's image weights alone, and images that only f_1 flags also get weights
below 1. Here both networks use the mean weights, as in the paper's text.

Source: Albert, Arazo, O'Connor and McGuinness, An accurate detection is not all you need to combat label noise in
web-noisy datasets, ECCV 2024, arXiv 2407.05528; PLS: the same authors, Is your noise correction noisy? PLS: Robustness
to label noise with two stage detection, WACV 2023, arXiv 2210.04578. In other differences between text and code, this
module follows the authors' code.
"""

from lightning_modules.noisy_labels.lsa.module import PLSLSA, PLSLSAPlus

__all__ = ["PLSLSA", "PLSLSAPlus"]
