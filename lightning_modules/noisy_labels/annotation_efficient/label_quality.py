"""The quality of pseudo labels, as far as it can be told without the truth, and the choice of the best (LQSS).

    Q_n = Dice(y_n, [r(mu(y_n)) > 1/2]) Dice(y_n, y'_n)

The first factor says how well a VAE of masks gives the label y back. The second says how well the label agrees with the
one that it replaces, y', and is 1 for the first labels. The best part of the labels is kept. The paper names the
selection; its rule could not be read, and this one is our choice.
"""

import math

import numpy as np
import torch
from torch import Tensor

from datamodules.distributed.collectives import all_reduce_sum, world_size
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.annotation_efficient.measures import dice


def label_quality(label: Tensor, replaced: Tensor | None, vae: ShapeVAE | None) -> Tensor:
    """Judge each label by Q.

    Args:
        label: y, `[B, H, W]`, 0 and 1.
        replaced: y', `[B, H, W]`, 0 and 1; None for the first labels.
        vae: has learned masks; None leaves its factor out.

    Returns:
        `[B]`, float32 in [0, 1].
    """
    quality = torch.ones(len(label), dtype=torch.float32, device=label.device)
    if vae is not None:
        mask = label[:, None].to(next(vae.parameters()).dtype)
        quality = quality * dice(label, vae(mask)[:, 0] > 0)
    return quality if replaced is None else quality * dice(label, replaced)


def best_part(quality: Tensor, fraction: float) -> Tensor:
    """Choose the ceil(fraction N) samples of best quality; of equal ones the first.

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
    """Keep the largest connected part of each mask `[B, H, W]` and fill its holes, on the CPU.

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


def mean_over_kept(loss: Tensor, kept: Tensor) -> Tensor:
    """Compute this process's part of the mean loss over the kept samples of the global batch; 0 if none is kept.

    Args:
        loss: `[b]`.
        kept: `[b]`, bool.

    Returns:
        World size times the sum over this process's kept samples, over the number of them on all processes.
    """
    weight = kept.to(loss.dtype)
    return world_size() * (weight * loss).sum() / all_reduce_sum(weight.sum()).clamp(min=1)
