"""Annotation-efficient segmentation: no annotated image, but shapes of the structure that belong to no image.

Four stages in one run, with images x and masks z in [0, 1] of other structures than those in the images:

    0  a VAE learns the shapes of the auxiliary masks;
    1  a CycleGAN learns to translate between images and masks, with a discriminator on the VAE's means and channels
       calibrated by a discriminator (see `translation`):
       L_gen = (D_z(E(x)) - 1)^2 + lam_v (D_vae(mu(E(x))) - 1)^2 + (D_x(G(z)) - 1)^2
               + lam_c (|G(E(x)) - x|_1 + w_z BCE(E(G(z)), z));
    2  its generator of masks, E, makes a pseudo label of each training image, and the better ones are kept (see
       `label_quality`): Q = Dice(y, VAE(y)) Dice(y, y');
    3  a segmentation network S learns from the kept ones with the noise-weighted Dice loss, in rounds: round 0 with
       gamma = 0 on the labels of E, each later round on labels y = [S(x) > 1/2] that S has renewed:
       L = 1 - 2 sum w p y / sum w (p + y),      w = exp(-gamma |p - y|) without gradient.

S predicts in the end, or E where no epoch of stage 3 is planned.

No code of the authors was found, and of the paper only its abstract and a reader's notes could be read. Stages,
networks and the names of their parts are the paper's. All formulas, weights and schedules are our choice; weights and
schedules are arguments. Generators and discriminators are stepped at once, each against the other before the step: this
is what CycleGAN's two steps do, whose discriminators see the fakes made before the generators' step. There is no buffer
of earlier fakes.

Source: Wang, Guo, Wang and Zhang, Annotation-Efficient Learning for Medical Image Segmentation Based on Noisy Pseudo
Labels and Adversarial Learning, IEEE Journal of Biomedical and Health Informatics 2021, arXiv 2012.14584.
"""

from lightning_modules.noisy_labels.annotation_efficient.module import AnnotationEfficient
from lightning_modules.noisy_labels.annotation_efficient.translation import Translation

__all__ = ["AnnotationEfficient", "Translation"]
