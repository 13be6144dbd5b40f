"""ADELE: adaptive early-learning correction for segmentation from noisy annotations.

A segmenter that is trained on noisy masks first learns the correct shapes, and later memorises the errors. Memorisation
starts at a different time for each category. `callbacks.early_learning` detects when early learning ends for a
category, based on the agreement between training predictions and labels. From then on, confident predictions replace
labels of this category (`label_rules.py`). A loss that makes predictions consistent over several scales of an image
improves the predictions (`multi_scale.py`, which also defines the symbols):

    L = L_CE + lambda L_cons,        divided by the number of scales for SegTHOR,
    L_CE = sum_k mean CE(w_k z_k, y),        L_cons = mean m sum_k KL(p_k || q),        q = sum_k w_k p_k.

If the paper and the authors' code differ, this module follows the code. The code uses different settings for its two
datasets; the arguments `correction`, `learn_scale_weights` and `divide_by_scales` select these settings. Departures:
the dense CRF of the VOC experiments is omitted. The learning rate of the scale weights follows the schedule of the
other parameters; in the authors' code, it is constant. If the early learning of a category ended one epoch before a
multiple of ten, the SegTHOR code corrects the category again without a new test. This module tests first.

Source: Liu, Liu, Zhu, Shen and Fernandez-Granda, Adaptive Early-Learning Correction for Segmentation from Noisy
Annotations, CVPR 2022, arXiv 2110.03740.
"""

from lightning_modules.noisy_labels.adele.correction import EvaluationPassCorrection, TrainingPassCorrection
from lightning_modules.noisy_labels.adele.module import ADELE

__all__ = ["ADELE", "EvaluationPassCorrection", "TrainingPassCorrection"]
