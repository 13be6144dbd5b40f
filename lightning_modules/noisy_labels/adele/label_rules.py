"""The two rules by which ADELE replaces label pixels with the network's predictions.

A category is *on* once its early learning has ended. For a pixel of an image, let y be the label, p the predicted
probabilities, and k = argmax p. Let Y be the set of categories that occur in the label of the whole image:

    merge (SegTHOR): y -> k where the prediction is confident, y and k are each on or background, and k is in Y or
                     background. Labels in which no category is on are not changed.

    update (VOC):    y -> k where max p > tau, k is on or background, and either k is in Y or Y is only background.
                     A label with foreground is not changed if none of its foreground categories is on. A label is also
                     not changed if it would lose more than half of its foreground and become more than 95 % background.

Unlabelled pixels have the value 255. The merge rule leaves them unlabelled; the update rule may assign a category to
them. Unlabelled pixels count neither as foreground nor as image area, so that they can be used to pad images. The
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
    """Return a mask, `[B, K]`, of the categories that occur in each of the labels `[B, H, W]`."""
    shown = torch.zeros(len(label), num_classes + 1, dtype=torch.bool, device=label.device)
    inside = torch.where(label < num_classes, label, num_classes).flatten(1)
    return shown.scatter_(1, inside, torch.ones_like(inside, dtype=torch.bool))[:, :num_classes]


def _holds(members: Tensor, label: Tensor) -> Tensor:
    """Return a mask, `[B, H, W]`, of the pixels whose category is a member according to `members`, `[B, K]`.

    The mask is false for pixels with the label 255.
    """
    members = F.pad(members, (0, 1))
    inside = label.clamp(max=members.shape[1] - 1)
    return members.gather(1, inside.flatten(1)).view_as(label)


def confident_prediction(probability: Tensor, foreground_threshold: float, background_threshold: float) -> Tensor:
    """Return the predicted category of each pixel, or 255 if the merge rule does not count the prediction as confident.

    A prediction is confident if the largest foreground probability exceeds tau_fg or the background probability exceeds
    tau_bg.

    Args:
        probability: class probabilities p, `[B, K, H, W]`.
        foreground_threshold: threshold tau_fg of the largest foreground probability.
        background_threshold: threshold tau_bg of the background probability.

    Returns:
        Categories `[B, H, W]`, int64; 255 where the prediction is not confident.
    """
    foreground = probability[:, 1:].amax(dim=1) > foreground_threshold
    background = probability[:, BACKGROUND] > background_threshold
    return torch.where(foreground | background, probability.argmax(dim=1), IGNORED)


def merged_label(label: Tensor, predicted: Tensor, on: Tensor) -> Tensor:
    """Correct labels by the merge rule.

    Args:
        label: labels y, `[B, H, W]`, int64; 255 for unlabelled pixels.
        predicted: predicted categories k, `[B, H, W]`, int64; 255 where the prediction is not confident.
        on: whether the early learning of each category has ended, `[K]`, bool. The entry of the background is ignored,
            because the background is always treated as on.

    Returns:
        New labels `[B, H, W]`, int64.
    """
    shown = categories_shown(label, len(on))
    shown[:, BACKGROUND] = True
    may_change = on.expand_as(shown).clone()
    may_change[:, BACKGROUND] = True
    # If no category of the image is on, only background pixels match, and they remain background.
    replaced = _holds(may_change, label) & _holds(may_change & shown, predicted)
    return torch.where(replaced, predicted, label)


def updated_label(label: Tensor, predicted: Tensor, probability: Tensor, on: Tensor, threshold: float) -> Tensor:
    """Correct labels by the update rule.

    Args:
        label: labels y, `[B, H, W]`, int64; 255 for unlabelled pixels.
        predicted: predicted categories k, `[B, H, W]`, int64.
        probability: largest class probability, max p, `[B, H, W]`.
        on: whether the early learning of each category has ended, `[K]`, bool. The entry of the background is ignored,
            because the background is always treated as on.
        threshold: threshold tau of the largest probability.

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
    """Choose the categories that the merge rule corrects after this epoch.

    Counting epochs from 1, the periods are the epochs 1 to n - 1, n to 2 n - 1, and so on. In each period, a category
    is corrected at most once: when a test in this period first finds that early learning has ended for the category.

    Args:
        ended: whether the early learning of each category has ended according to the test after this epoch, `[K]`,
            bool.
        corrected: whether each category was already corrected in this period, `[K]`, bool.
        epoch: index of the epoch, counted from 0.
        every_n_epochs: length n of a period.

    Returns:
        Mask of the categories to correct, and the updated `corrected`, both `[K]`.
    """
    if (epoch + 1) % every_n_epochs == 0:
        corrected = torch.zeros_like(corrected)
    return ended & ~corrected, ended | corrected
