"""ADELE: adaptive early-learning correction for segmentation from noisy annotations.

A segmenter that is trained on wrong masks first learns the right shapes and later memorises the errors, each category
at a time of its own. When the early learning of a category ends, which `callbacks.early_learning` detects from the fit
of the training predictions to the labels, its labels are from then on replaced by what is confidently predicted
(`label_rules`). Consistency over the scales of an image makes the predictions better (`multi_scale`):

    L = L_CE + lambda L_cons,        for SegTHOR divided by the number of scales,
    L_CE = sum_k mean CE(w_k z_k, y),        L_cons = mean m sum_k KL(p_k || q),        q = sum_k w_k p_k.

Where the paper and the authors' code differ, this follows the code. How the code differs between its two data sets is
a setting: how labels are corrected (`correction`), whether the weights of the scales are trained, and whether the loss
is divided by their number. The dense CRF of the VOC experiments is left out, and the learning rate of the weights falls
with the others, where the code's stays. The SegTHOR code corrects a category that ends one epoch before a multiple of
ten again at that multiple without a test; here it is tested.

Source: Liu, Liu, Zhu, Shen and Fernandez-Granda, Adaptive Early-Learning Correction for Segmentation from Noisy
Annotations, CVPR 2022, arXiv 2110.03740.
"""

from lightning_modules.noisy_labels.adele.correction import EvaluationPassCorrection, TrainingPassCorrection
from lightning_modules.noisy_labels.adele.module import ADELE

__all__ = ["ADELE", "EvaluationPassCorrection", "TrainingPassCorrection"]
