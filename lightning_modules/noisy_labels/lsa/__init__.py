"""PLS-LSA trains classifiers on images from the web, of which some have a wrong label and some belong to no class.

It finds noisy images and trains them towards guesses, as far as these can be trusted. With small loss as its only
detector it is PLS; PLS-LSA+ trains two networks. Each epoch, from the last of a few epochs of plain mixup on, ends with
a sweep over the training set: it says which images are noisy (linear separation of features and small loss take turns,
see `detection`) and how far their guesses can be trusted. In the next epoch the target of a noisy image is its
sharpened guess, weighted by that trust, and the image is a strong view where there is one. A supervised contrastive
term draws images of the same target together (the equations are in `objective`).

Several views of an image are drawn where the batch is: the DataModule must not augment images itself
(no `augmentation`, and `min_area: null` where the images have it). Batch-normalised networks also see the views
that are guessed from in training mode, as in the authors' code. `warmup_epochs` counts plain epochs: LSA's code with a
warm-up of 0 has one, PLS's with W has W.

PLS: `detectors: [loss]`, `guess_views: 2`, `penalty: true`, `confidence_contrast: true`, no `strong_view`: noisy images
are then trained on the first of the two views that their guess comes from. Its code weights the guesses one epoch later
than is done here.

PLS-LSA+: an epoch is a pass that trains f_1 and then a pass that trains f_2. The guess for an image is the sharpened
mean of both predictions, and in the epochs of plain mixup that of the trained network alone. At the end of an epoch
each network judges all training images, with the guesses that were tracked while the other one was trained; an image is
noisy where both say so, with the mean of their weights. The prediction is the mean of both networks' logits. The
authors' code keeps one table of guesses, in which the pass of f_2 overwrites what the pass of f_1 tracked; here each
pass has its own, as the code's two names for it intend. The released code also copies the weights for f_2 before it
takes their mean: f_2 trains with the weights of f_1 alone, below 1 also for images that are not agreed to be noisy.
Here both networks have the mean, as the text says.

Source: Albert, Arazo, O'Connor and McGuinness, An accurate detection is not all you need to combat label noise in
web-noisy datasets, ECCV 2024, arXiv 2407.05528; PLS: the same authors, Is your noise correction noisy? PLS: Robustness
to label noise with two stage detection, WACV 2023, arXiv 2210.04578. Where text and code differ, the authors' code is
followed.
"""

from lightning_modules.noisy_labels.lsa.module import PLSLSA, PLSLSAPlus

__all__ = ["PLSLSA", "PLSLSAPlus"]
