"""ADELE: adaptive early-learning correction for segmentation from noisy annotations.

A segmenter trained on noisy masks first learns the correct shapes and later memorises the errors, at a different time
for each category. `callbacks.early_learning` detects the end of a category's early learning from the agreement of the
training predictions with the labels. From then on, its labels are replaced by confident predictions (`label_rules`).
Consistency over the scales of an image improves the predictions (`multi_scale`):

    L = L_CE + lambda L_cons,        for SegTHOR divided by the number of scales,
    L_CE = sum_k mean CE(w_k z_k, y),        L_cons = mean m sum_k KL(p_k || q),        q = sum_k w_k p_k.

Where paper and authors' code differ, this module follows the code. The code's differences between its two datasets are
arguments: the label correction (`correction`), trained weights of the scales, and division of the loss by their number.
Departures: the dense CRF of the VOC experiments is omitted; the learning rate of the scale weights is scheduled like
the others, whereas the code keeps it constant. If a category's early learning ended one epoch before a multiple of ten,
the SegTHOR code corrects it again without a test; here the test is applied.

Source: Liu, Liu, Zhu, Shen and Fernandez-Granda, Adaptive Early-Learning Correction for Segmentation from Noisy
Annotations, CVPR 2022, arXiv 2110.03740.
"""

from lightning_modules.noisy_labels.adele.correction import EvaluationPassCorrection, TrainingPassCorrection
from lightning_modules.noisy_labels.adele.module import ADELE

__all__ = ["ADELE", "EvaluationPassCorrection", "TrainingPassCorrection"]
