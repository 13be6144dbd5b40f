"""Average symmetric surface distance between masks, as a metric."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


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


class AverageSurfaceDistance(Metric):
    """The mean of `average_surface_distance` over images, in pixels."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Takes masks `[B, H, W]` that are 0 and 1."""
        for one, other in zip(prediction.bool().cpu(), target.bool().cpu(), strict=True):
            self.total += average_surface_distance(one, other).to(self.total.device)
        self.count += len(prediction)

    def compute(self) -> Tensor:
        return (self.total / self.count).float()
