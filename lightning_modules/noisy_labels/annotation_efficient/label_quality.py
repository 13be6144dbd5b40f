"""Label quality-based sample selection (LQSS): estimate label quality without ground truth, and keep the best labels.

    Q_n = Dice(y_n, [r(mu(y_n)) > 1/2]) Dice(y_n, y'_n)

The first factor measures how well a VAE of masks reconstructs the label y. The second factor measures the agreement
between y and the previous label y'; it is 1 for the first labels. Only the labels of the highest quality, a fixed
fraction of all labels, are kept. The paper names this selection method, but the paper's rule was not available to us.
The rule here is our choice.
"""

import math

import numpy as np
import torch
from torch import Tensor

from datamodules.distributed.collectives import all_reduce_sum, world_size
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.annotation_efficient.measures import dice


def label_quality(label: Tensor, replaced: Tensor | None, vae: ShapeVAE | None) -> Tensor:
    """Compute the quality Q of each label.

    Args:
        label: binary labels y, `[B, H, W]`.
        replaced: previous binary labels y', `[B, H, W]`, which y replaces; None if y are the first labels.
        vae: trained VAE of masks; None omits the first factor of Q.

    Returns:
        Quality `[B]`, float32 in [0, 1].
    """
    quality = torch.ones(len(label), dtype=torch.float32, device=label.device)
    if vae is not None:
        mask = label[:, None].to(next(vae.parameters()).dtype)
        quality = quality * dice(label, vae(mask)[:, 0] > 0)
    return quality if replaced is None else quality * dice(label, replaced)


def best_part(quality: Tensor, fraction: float) -> Tensor:
    """Select the ceil(fraction N) samples of the highest quality.

    If samples have equal quality, those that come first are selected.

    Args:
        quality: quality of each sample, `[N]`.
        fraction: fraction of the samples to select, in (0, 1].

    Returns:
        Mask of the selected samples, `[N]`, bool.
    """
    number = math.ceil(fraction * len(quality) - 1e-9)  # as a float, 0.07 * 100 is slightly more than 7
    kept = torch.zeros(len(quality), dtype=torch.bool, device=quality.device)
    kept[quality.argsort(descending=True, stable=True)[:number]] = True
    return kept


def without_holes_and_islands(label: Tensor) -> Tensor:
    """Keep the largest connected component of each mask `[B, H, W]`, fill its holes, and remove the rest, on the CPU.

    Pixels are connected if they share an edge. If several components are equally large, the first of them is kept.
    """
    from scipy import ndimage

    masks = label.bool().cpu().numpy()
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)  # masks of different images are not connected
    parts, number = ndimage.label(masks, in_plane)
    sizes = np.bincount(parts.ravel(), minlength=number + 1)
    sizes[0] = 0
    of_pixel = sizes[parts]
    largest = of_pixel.max(axis=(1, 2), keepdims=True)
    first = np.where((of_pixel == largest) & masks, parts, number + 1).min(axis=(1, 2), keepdims=True)
    filled = ndimage.binary_fill_holes(masks & (parts == first), in_plane)
    return torch.from_numpy(filled).to(label.device, label.dtype)


def mean_over_kept(loss: Tensor, kept: Tensor) -> Tensor:
    """Compute this rank's loss, such that the mean over ranks is the mean loss of all kept samples of the global batch.

    The loss is 0 if no sample is kept.

    Args:
        loss: loss of each sample, `[b]`.
        kept: mask of the kept samples, `[b]`, bool.

    Returns:
        Sum of the losses of the kept samples on this rank, multiplied by the world size and divided by the number of
        kept samples on all ranks.
    """
    weight = kept.to(loss.dtype)
    return world_size() * (weight * loss).sum() / all_reduce_sum(weight.sum()).clamp(min=1)
