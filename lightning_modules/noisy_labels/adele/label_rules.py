"""The two rules by which ADELE replaces label pixels by the network's predictions.

A category is *on* once its early learning has ended. Let y be the label of an image, k = argmax p the predicted
category of a pixel, and Y the set of categories that occur anywhere in y:

    merge (SegTHOR): y -> k where the prediction is confident, y and k are on or background, and k is in Y or
                     background. Labels in which no category is on stay unchanged.

    update (VOC):    y -> k where max p > tau, k is on or background, and k is in Y unless y is all background.
                     Labels whose foreground categories are all off stay unchanged. A label also stays unchanged if it
                     would lose more than half of its foreground and become more than 95 % background.

255 marks unlabelled pixels. The merge rule leaves them unlabelled; the update rule may assign a category. Unlabelled
pixels count neither as foreground nor as image area. Images may therefore be padded with unlabelled pixels. The
authors' code counts them as foreground.

Source: Liu et al., Adaptive Early-Learning Correction for Segmentation from Noisy Annotations, CVPR 2022, arXiv
2110.03740; both rules follow the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batches import IGNORED

BACKGROUND = 0
LEAST_FOREGROUND, MOST_BACKGROUND = 0.5, 0.95


def categories_shown(label: Tensor, num_classes: int) -> Tensor:
    """Mark the categories that occur in each label `[B, H, W]`: `[B, K]`, bool."""
    shown = torch.zeros(len(label), num_classes + 1, dtype=torch.bool, device=label.device)
    inside = torch.where(label < num_classes, label, num_classes).flatten(1)
    return shown.scatter_(1, inside, torch.ones_like(inside, dtype=torch.bool))[:, :num_classes]


def _holds(members: Tensor, label: Tensor) -> Tensor:
    """Mark the pixels `[B, H, W]` with a category in the set of their image, `[B, K]`. Label 255 is never marked."""
    members = F.pad(members, (0, 1))
    inside = label.clamp(max=members.shape[1] - 1)
    return members.gather(1, inside.flatten(1)).view_as(label)


def confident_prediction(probability: Tensor, foreground_threshold: float, background_threshold: float) -> Tensor:
    """Return the predicted category of pixels that the merge rule counts as confident.

    A prediction is confident if the largest foreground p exceeds tau_fg or the background p exceeds tau_bg.

    Args:
        probability: class probabilities p, `[B, K, H, W]`.
        foreground_threshold: tau_fg, threshold for the largest foreground probability.
        background_threshold: tau_bg, threshold for the background probability.

    Returns:
        Categories `[B, H, W]`, int64; 255 where the prediction is not confident.
    """
    foreground = probability[:, 1:].amax(dim=1) > foreground_threshold
    background = probability[:, BACKGROUND] > background_threshold
    return torch.where(foreground | background, probability.argmax(dim=1), IGNORED)


def merged_label(label: Tensor, predicted: Tensor, on: Tensor) -> Tensor:
    """Correct labels by the merge rule.

    Args:
        label: y, `[B, H, W]`, int64; 255 if unlabelled.
        predicted: predicted categories, `[B, H, W]`, int64; 255 if not confident.
        on: categories whose early learning has ended, `[K]`, bool. The entry of the background is ignored, because the
            background is always on.

    Returns:
        New labels `[B, H, W]`, int64.
    """
    shown = categories_shown(label, len(on))
    shown[:, BACKGROUND] = True
    may_change = on.expand_as(shown).clone()
    may_change[:, BACKGROUND] = True
    # In an image without any category that is on, only background pixels match, and they stay background.
    replaced = _holds(may_change, label) & _holds(may_change & shown, predicted)
    return torch.where(replaced, predicted, label)


def updated_label(label: Tensor, predicted: Tensor, probability: Tensor, on: Tensor, threshold: float) -> Tensor:
    """Correct labels by the update rule.

    Args:
        label: y, `[B, H, W]`, int64; 255 if unlabelled.
        predicted: k, predicted categories, `[B, H, W]`, int64.
        probability: largest class probability max p, `[B, H, W]`.
        on: categories whose early learning has ended, `[K]`, bool. The entry of the background is ignored, because the
            background is always on.
        threshold: tau, threshold for the largest probability.

    Returns:
        New labels `[B, H, W]`, int64.
    """
    shown = categories_shown(label, len(on))
    shows_foreground = shown[:, BACKGROUND + 1 :].any(dim=1)
    processed = (shown & on)[:, BACKGROUND + 1 :].any(dim=1) | ~shows_foreground
    allowed = on & (shown | ~shows_foreground[:, None])
    allowed[:, BACKGROUND] = shown[:, BACKGROUND] | ~shows_foreground
    changed = processed[:, None, None] & _holds(allowed, predicted) & (probability > threshold)
    new = torch.where(changed, predicted, label)
    known = label != IGNORED
    counted = (known, known & (label != BACKGROUND), known & (new != BACKGROUND))
    area, before, after = (pixels.sum(dim=(1, 2)).double() for pixels in counted)
    too_little = after < LEAST_FOREGROUND * before
    too_much_background = area - after > MOST_BACKGROUND * area
    return torch.where((too_little & too_much_background)[:, None, None], label, new)


def categories_due(ended: Tensor, corrected: Tensor, epoch: int, every_n_epochs: int) -> tuple[Tensor, Tensor]:
    """Choose the categories that the merge rule corrects after an epoch, each once per period of n epochs.

    Counting epochs from 1, periods start at multiples of n: 1 to n - 1, n to 2 n - 1, and so on. In each period, a
    category is corrected once, when the test finds for the first time that early learning has ended for it.

    Args:
        ended: categories whose early learning has ended according to the test after this epoch, `[K]`, bool.
        corrected: categories that were already corrected in this period, `[K]`, bool.
        epoch: epoch, counted from 0.
        every_n_epochs: n, length of a period.

    Returns:
        The categories to correct and the updated `corrected`, both `[K]`.
    """
    if (epoch + 1) % every_n_epochs == 0:
        corrected = torch.zeros_like(corrected)
    return ended & ~corrected, ended | corrected
