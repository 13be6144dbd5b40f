"""The two rules by which ADELE replaces pixels of a label by what the network predicts there.

A category is *on* from the end of its early learning. With a label y of an image, the predicted category k = argmax p
of a pixel and the set Y of the categories that y shows anywhere in the image,

    merge (SegTHOR): y -> k where the prediction is confident, y and k are on or background, and k is in Y or
                     background; images that show no category that is on stay as they are;
    update (VOC):    y -> k where max p > tau, k is on or background, and k is in Y unless y shows background alone;
                     images stay as they are that show other categories and none that is on, and those that the update
                     would leave with less than half of their foreground and more than 95 % of background.

255 stands for pixels without a label: merge leaves them, and update may give them a category. They do not count as
foreground or as part of the image, so that one may fill up an image with them (the authors' code counts them as
foreground).

Source: Liu et al., Adaptive Early-Learning Correction for Segmentation from Noisy Annotations, CVPR 2022, arXiv
2110.03740; both rules are those of the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batches import IGNORED

BACKGROUND = 0
LEAST_FOREGROUND, MOST_BACKGROUND = 0.5, 0.95


def categories_shown(label: Tensor, num_classes: int) -> Tensor:
    """Tell for each image which categories its label `[B, H, W]` shows anywhere: `[B, K]`, bool."""
    shown = torch.zeros(len(label), num_classes + 1, dtype=torch.bool, device=label.device)
    inside = torch.where(label < num_classes, label, num_classes).flatten(1)
    return shown.scatter_(1, inside, torch.ones_like(inside, dtype=torch.bool))[:, :num_classes]


def _holds(members: Tensor, label: Tensor) -> Tensor:
    """Tell for each pixel whether its category, `[B, H, W]`, is in its image's set `[B, K]`; 255 never is."""
    members = F.pad(members, (0, 1))
    inside = label.clamp(max=members.shape[1] - 1)
    return members.gather(1, inside.flatten(1)).view_as(label)


def confident_prediction(probability: Tensor, foreground_threshold: float, background_threshold: float) -> Tensor:
    """Give the predicted category where the merge rule counts the prediction as confident.

    It does so where the largest p of the foreground exceeds tau_fg or p of the background exceeds tau_bg.

    Args:
        probability: p, `[B, K, H, W]`.
        foreground_threshold: tau_fg.
        background_threshold: tau_bg.

    Returns:
        `[B, H, W]`, int64: the category; 255 where the prediction is not confident.
    """
    foreground = probability[:, 1:].amax(dim=1) > foreground_threshold
    background = probability[:, BACKGROUND] > background_threshold
    return torch.where(foreground | background, probability.argmax(dim=1), IGNORED)


def merged_label(label: Tensor, predicted: Tensor, on: Tensor) -> Tensor:
    """Correct labels by the merge rule.

    Args:
        label: y, `[B, H, W]`, int64, with 255 where it is not known.
        predicted: `[B, H, W]`, int64: the predicted category, 255 where it is not confident.
        on: `[K]`, bool: categories that are on. The background always is, and its entry does not count.

    Returns:
        `[B, H, W]`, int64: the new labels.
    """
    shown = categories_shown(label, len(on))
    shown[:, BACKGROUND] = True
    may_change = on.expand_as(shown).clone()
    may_change[:, BACKGROUND] = True
    # In an image that shows no category that is on, these are pixels of the background that stay so.
    replaced = _holds(may_change, label) & _holds(may_change & shown, predicted)
    return torch.where(replaced, predicted, label)


def updated_label(label: Tensor, predicted: Tensor, probability: Tensor, on: Tensor, threshold: float) -> Tensor:
    """Correct labels by the update rule.

    Args:
        label: y, `[B, H, W]`, int64, with 255 where it is not known.
        predicted: k, `[B, H, W]`, int64.
        probability: max p, `[B, H, W]`.
        on: `[K]`, bool: categories that are on. The background always is, and its entry does not count.
        threshold: tau; probabilities must exceed it.

    Returns:
        `[B, H, W]`, int64: the new labels.
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
    """Choose the categories that the merge rule corrects after an epoch: each once in a stretch of n epochs.

    Epochs, counted from 1, come in stretches that begin where n divides their number: 1 to n - 1, n to 2 n - 1, and so
    on. In each, a category is corrected at the first epoch whose test says that its early learning has ended.

    Args:
        ended: `[K]`, bool: categories whose early learning has ended, as the test after this epoch says.
        corrected: `[K]`, bool: categories that were corrected in this stretch before.
        epoch: counted from 0.
        every_n_epochs: n.

    Returns:
        The categories to correct, `[K]`, and the new `corrected`.
    """
    if (epoch + 1) % every_n_epochs == 0:
        corrected = torch.zeros_like(corrected)
    return ended & ~corrected, ended | corrected
