"""ADELE: adaptive early-learning correction for segmentation from noisy annotations.

A segmenter trained on noisy masks first learns the correct shapes and later memorises the errors, at a different time
for each category. `callbacks.early_learning` detects the end of early learning for each category from the agreement of
training predictions with labels. From then on, confident predictions replace the category's labels (`label_rules`). A
loss for consistency over the scales of an image improves the predictions (`multi_scale`):

    L = L_CE + lambda L_cons,        for SegTHOR divided by the number of scales,
    L_CE = sum_k mean CE(w_k z_k, y),        L_cons = mean m sum_k KL(p_k || q),        q = sum_k w_k p_k.

Where paper and authors' code differ, this module follows the code. The code treats its two datasets differently; the
arguments `correction`, `learn_scale_weights` and `divide_by_scales` select between the two. Departures: the dense CRF
of the VOC experiments is omitted. The learning rate of the scale weights follows the schedule of the other parameters;
in the authors' code, it is constant. If the early learning of a category ended one epoch before a multiple of ten, the
SegTHOR code corrects the category again without a test. This module tests first.

Source: Liu, Liu, Zhu, Shen and Fernandez-Granda, Adaptive Early-Learning Correction for Segmentation from Noisy
Annotations, CVPR 2022, arXiv 2110.03740.
"""

from lightning_modules.noisy_labels.adele.correction import EvaluationPassCorrection, TrainingPassCorrection
from lightning_modules.noisy_labels.adele.module import ADELE

__all__ = ["ADELE", "EvaluationPassCorrection", "TrainingPassCorrection"]
