"""Annotation-efficient segmentation: training without annotated images, from unpaired masks of the structure.

One run has four stages. The images are x. The auxiliary masks z in [0, 1] do not belong to these images:

    0  a VAE learns the shapes of the auxiliary masks;
    1  a CycleGAN learns to translate between images and masks, with an additional discriminator on the VAE's means, and
       with channels calibrated by a discriminator (see `translation`):
       L_gen = (D_z(E(x)) - 1)^2 + lam_v (D_vae(mu(E(x))) - 1)^2 + (D_x(G(z)) - 1)^2
               + lam_c (|G(E(x)) - x|_1 + w_z BCE(E(G(z)), z));
    2  its mask generator E predicts a pseudo label for each training image, and the best ones are kept (see
       `label_quality`): Q = Dice(y, VAE(y)) Dice(y, y');
    3  a segmentation network S is trained on the kept labels with the noise-weighted Dice loss, in rounds: round 0 has
       gamma = 0 and labels of E, each later round has labels y = [S(x) > 1/2] predicted by S:
       L = 1 - 2 sum w p y / sum w (p + y),      w = exp(-gamma |p - y|) without gradient.

The final predictions come from S, or from E if stage 3 has no epochs.

No code by the authors was found; only the paper's abstract and a reader's notes were available. Stages, networks and
the names of their parts follow the paper. All formulas, weights and schedules are our choice; weights and schedules are
arguments. Generators and discriminators are updated simultaneously. Each update uses the weights of the other networks
from before the step. CycleGAN does the same; its discriminators use fakes from before the step of the generators. No
buffer of past fakes is kept.

Source: Wang, Guo, Wang and Zhang, Annotation-Efficient Learning for Medical Image Segmentation Based on Noisy Pseudo
Labels and Adversarial Learning, IEEE Journal of Biomedical and Health Informatics 2021, arXiv 2012.14584.
"""

from lightning_modules.noisy_labels.annotation_efficient.module import AnnotationEfficient
from lightning_modules.noisy_labels.annotation_efficient.translation import Translation

__all__ = ["AnnotationEfficient", "Translation"]
