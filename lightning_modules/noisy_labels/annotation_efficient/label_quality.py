"""How good a pseudo label is, as far as can be told without the truth, and which ones are kept (LQSS).

    Q_n = Dice(y_n, [r(mu(y_n)) > 1/2]) Dice(y_n, y'_n),

how well a VAE of masks gives the label y back, and how well the label agrees with the one that it replaces, y'; that
factor is 1 for the first labels. The best part of the labels is kept. The paper names the selection; its rule could not
be read, and this one is our choice.
"""

import math

import numpy as np
import torch
from torch import Tensor

from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.annotation_efficient.mean_over_images import MeanOverImages


def dice(one: Tensor, other: Tensor) -> Tensor:
    """2 |A n B| / (|A| + |B|) of masks `[B, ...]` that are 0 and 1, `[B]`; 1 of two empty ones."""
    one, other = one.flatten(start_dim=1).float(), other.flatten(start_dim=1).float()
    total = one.sum(dim=1) + other.sum(dim=1)
    return torch.where(total > 0, 2 * (one * other).sum(dim=1) / total.clamp(min=1), 1.0)


class MeanDice(MeanOverImages):
    """The mean of `dice` over images; an image that is empty in both masks counts as 1."""

    higher_is_better = True  # type: ignore[assignment]

    def update(self, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Takes masks `[B, H, W]` that are 0 and 1."""
        super().update(dice(prediction, target))


def label_quality(label: Tensor, replaced: Tensor | None, vae: ShapeVAE | None) -> Tensor:
    """Q of each label.

    Args:
        label: y, `[B, H, W]`, 0 and 1.
        replaced: y', likewise; None for the first labels.
        vae: of masks; None leaves its factor out.

    Returns:
        `[B]`, float32 in [0, 1].
    """
    quality = torch.ones(len(label), device=label.device)
    if vae is not None:
        mask = label[:, None].to(next(vae.parameters()).dtype)
        quality = quality * dice(label, vae(mask)[:, 0] > 0)
    return quality if replaced is None else quality * dice(label, replaced)


def best_part(quality: Tensor, fraction: float) -> Tensor:
    """The ceil(fraction N) samples of best quality; of equal ones the first.

    Args:
        quality: `[N]`.
        fraction: in (0, 1].

    Returns:
        `[N]`, bool.
    """
    number = math.ceil(fraction * len(quality) - 1e-9)  # 0.7 * 10 is a little more than 7
    kept = torch.zeros(len(quality), dtype=torch.bool, device=quality.device)
    kept[quality.argsort(descending=True, stable=True)[:number]] = True
    return kept


def without_holes_and_islands(label: Tensor) -> Tensor:
    """The largest connected part of each mask `[B, H, W]`, with its holes filled. Computed on the CPU.

    Pixels that touch along an edge are connected. Of equally large parts it is the first one.
    """
    from scipy import ndimage

    masks = label.bool().cpu().numpy()
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)  # nothing connects one mask of the batch with the next
    parts, number = ndimage.label(masks, in_plane)
    sizes = np.bincount(parts.ravel(), minlength=number + 1)
    sizes[0] = 0
    of_pixel = sizes[parts]
    largest = of_pixel.max(axis=(1, 2), keepdims=True)
    first = np.where((of_pixel == largest) & masks, parts, number + 1).min(axis=(1, 2), keepdims=True)
    filled = ndimage.binary_fill_holes(masks & (parts == first), in_plane)
    return torch.from_numpy(filled).to(label.device, label.dtype)
