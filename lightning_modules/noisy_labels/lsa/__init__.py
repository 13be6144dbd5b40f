"""PLS-LSA: train classifiers on web images, some of which are mislabelled and some of which are out of distribution.

The method detects noisy images, guesses pseudo-labels for them, and trains on these guesses, weighted by their
reliability. If the images are detected only by their loss (small loss), the method is called PLS. PLS-LSA+ trains two
networks. The first epochs use plain mixup. Then each epoch ends with a sweep over the training set, which flags noisy
images and computes the weights of their guesses. The detector alternates between linear separation of features and
small loss (see `detection.py`). In the next epoch, the target of a noisy image is its sharpened guess, weighted by the
reliability of the guess. The input is the strong view of the image, if a strong view is given. A supervised contrastive
term pulls together the projections of images with the same target (see `objective.py` for the equations).

The module computes several augmented views of each image on the device. The DataModule must therefore not augment
images: do not set `augmentation`, and set `min_area: null` if the image set has this argument. Networks with batch
normalisation compute guesses in training mode, as in the authors' code. `warmup_epochs` is the number of epochs of
plain mixup. The LSA code trains one such epoch if its warm-up setting is 0; the PLS code trains W such epochs if its
warm-up setting is W.

PLS needs `detectors: [loss]`, `guess_views: 2`, `penalty: true`, `confidence_contrast: true` and no `strong_view`.
The input of a noisy image is then the first of the two views from which its guess is computed. The PLS code starts to
weight the guesses one epoch later than this module.

In PLS-LSA+, an epoch has two passes: the first trains f_1, and the second trains f_2. The guess for an image is the
sharpened mean of the predictions of both networks. During plain mixup, the guess is the prediction of the trained
network alone. At the end of an epoch, each network scores all training images, using the guesses that were stored while
the other network was trained. An image is noisy if both networks flag it. The weight of a noisy image is the mean of
the weights from both networks. The final logits are the mean over both networks. The authors' code stores one table of
guesses, so that the pass of f_2 overwrites the guesses from the pass of f_1. Here, each pass has a separate table, as
the names of two variables in the authors' code suggest. In the released code, the weights of the images are copied for
f_2 before they are averaged over both networks. The network f_2 is therefore trained with the weights from f_1 alone,
and images that only f_1 flags also have weights below 1. Here, both networks use the mean weights, as in the text of
the paper.

Source: Albert, Arazo, O'Connor and McGuinness, An accurate detection is not all you need to combat label noise in
web-noisy datasets, ECCV 2024, arXiv 2407.05528; PLS: the same authors, Is your noise correction noisy? PLS: Robustness
to label noise with two stage detection, WACV 2023, arXiv 2210.04578. If the text and the authors' code differ in other
respects, this module follows the code.
"""

from lightning_modules.noisy_labels.lsa.module import PLSLSA, PLSLSAPlus

__all__ = ["PLSLSA", "PLSLSAPlus"]
