"""Average symmetric surface distance between masks, as a metric."""

import torch
from torch import Tensor

from lightning_modules.noisy_labels.annotation_efficient.mean_over_images import MeanOverImages


def average_surface_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean distance of the border pixels of either mask to the nearest border pixel of the other one.

        (sum_{a in dA} d(a, dB) + sum_{b in dB} d(b, dA)) / (|dA| + |dB|)

    A border pixel belongs to the mask and has one of its four neighbours outside; beyond the image is outside.

    Args:
        prediction: A, `[H, W]`, bool.
        target: B, likewise.

    Returns:
        A number in pixels. 0 of two empty masks; the image's diagonal where one is empty.
    """
    from scipy import ndimage

    masks = [mask.cpu().numpy() for mask in (prediction, target)]
    filled = [mask.any() for mask in masks]
    if not all(filled):
        height, width = prediction.shape
        return torch.tensor((height**2 + width**2) ** 0.5 if any(filled) else 0.0, dtype=torch.float64)
    first, second = (mask & ~ndimage.binary_erosion(mask) for mask in masks)
    to_second, to_first = (ndimage.distance_transform_edt(~border) for border in (second, first))
    total = to_second[first].sum() + to_first[second].sum()
    return torch.tensor(total / (first.sum() + second.sum()), dtype=torch.float64)


class AverageSurfaceDistance(MeanOverImages):
    """The mean of `average_surface_distance` over images, in pixels."""

    higher_is_better = False  # type: ignore[assignment]

    def update(self, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Takes masks `[B, H, W]` that are 0 and 1."""
        pairs = zip(prediction.bool().cpu(), target.bool().cpu(), strict=True)
        super().update(torch.stack([average_surface_distance(one, other) for one, other in pairs]))
