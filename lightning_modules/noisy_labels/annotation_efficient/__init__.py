"""Annotation-efficient segmentation: train on images without annotations and on unpaired masks of the structure.

Let x be the images, and z in [0, 1] the auxiliary masks, which do not belong to these images. A run has four stages:

    0  a VAE learns the shapes of the auxiliary masks;
    1  a CycleGAN learns to translate between images and masks, with an additional discriminator of the VAE's latent
       means mu, and with channel calibration by a discriminator (see `translation.py`):
       L_gen = (D_z(E(x)) - 1)^2 + lam_v (D_vae(mu(E(x))) - 1)^2 + (D_x(G(z)) - 1)^2
               + lam_c (|G(E(x)) - x|_1 + w_z BCE(E(G(z)), z));
    2  the mask generator E of the CycleGAN predicts a pseudo label y for each training image, and the labels of the
       highest quality Q are kept (see `label_quality.py`): Q = Dice(y, VAE(y)) Dice(y, y');
    3  a segmentation network S is trained in rounds on the kept labels, with the noise-weighted Dice loss L. Round 0
       uses gamma = 0 and the labels predicted by E. Each later round uses the labels y = [S(x) > 1/2] predicted by S:
       L = 1 - 2 sum w p y / sum w (p + y),      w = exp(-gamma |p - y|) without gradient.

The final predictions are the predictions of S, or the predictions of E if stage 3 has no epochs.

No code by the authors was found. Only the abstract of the paper and a reader's notes were available. The stages, the
networks and the names of their parts follow the paper. All formulas, weights and schedules are our choice; the weights
and schedules are arguments. Generators and discriminators are updated simultaneously: each update uses the weights that
the other networks had before the step. In CycleGAN, too, the discriminators are updated with fakes generated before the
step of the generators. There is no buffer of past fakes here.

Source: Wang, Guo, Wang and Zhang, Annotation-Efficient Learning for Medical Image Segmentation Based on Noisy Pseudo
Labels and Adversarial Learning, IEEE Journal of Biomedical and Health Informatics 2021, arXiv 2012.14584.
"""

from lightning_modules.noisy_labels.annotation_efficient.module import AnnotationEfficient
from lightning_modules.noisy_labels.annotation_efficient.translation import Translation

__all__ = ["AnnotationEfficient", "Translation"]
