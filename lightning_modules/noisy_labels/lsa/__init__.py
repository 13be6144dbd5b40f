"""PLS-LSA: train classifiers on web images, some mislabelled and some out of distribution.

The method detects noisy images, and trains them on pseudo-labels (guesses), weighted by the guesses' reliability. With
small loss as the only detector, the method is PLS; PLS-LSA+ trains two networks. After a few epochs of plain mixup,
each epoch ends with a sweep over the training set. The sweep flags noisy images, alternately by linear separation of
features and by small loss (see `detection`), and weights their guesses. In the next epoch, the target of a noisy image
is its sharpened guess, weighted by that reliability; its input is the strong view, if there is one. A supervised
contrastive term attracts images of the same target (equations in `objective`).

The module augments images on the device, several views each: the DataModule must not augment (no `augmentation`, and
`min_area: null` if the image set has that argument). Networks with batch normalisation compute guesses in training
mode, as in the authors' code. `warmup_epochs` counts plain epochs: LSA's code has one at a warm-up of 0, and PLS's code
has W at a warm-up of W.

PLS needs `detectors: [loss]`, `guess_views: 2`, `penalty: true`, `confidence_contrast: true` and no `strong_view`.
Noisy images are then trained on the first of the two views from which their guess is computed. PLS's code starts to
weight the guesses one epoch later than this module.

In PLS-LSA+, an epoch is one pass that trains f_1 and one that trains f_2. An image's guess is the sharpened mean of
both networks' predictions; during plain mixup it is the trained network's prediction alone. At the end of an epoch each
network scores all training images, using the guesses tracked while the other network was trained. An image is noisy if
both networks flag it; its weight is the mean of their weights. The prediction is the mean of both networks' logits. The
authors' code keeps one table of guesses, in which f_2's pass overwrites f_1's; here each pass has its own table, as the
code's two variable names intend. The released code also copies the weights for f_2 before averaging. So f_2 trains with
f_1's weights alone, and images that only f_1 flags get weights below 1, too. Here both networks use the mean, as in the
text.

Source: Albert, Arazo, O'Connor and McGuinness, An accurate detection is not all you need to combat label noise in
web-noisy datasets, ECCV 2024, arXiv 2407.05528; PLS: the same authors, Is your noise correction noisy? PLS: Robustness
to label noise with two stage detection, WACV 2023, arXiv 2210.04578. Where text and code differ, the authors' code is
followed.
"""

from lightning_modules.noisy_labels.lsa.module import PLSLSA, PLSLSAPlus

__all__ = ["PLSLSA", "PLSLSAPlus"]
