"""Measure how often an image is found again from its noisy copy, by the features of both."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

_ROWS_AT_ONCE = 1024


def retrieval(noisy: Tensor, clean: Tensor) -> Tensor:
    """Compute the share of noisy images whose nearest clean image, by the cosine of their features, is their own.

    Args:
        noisy: `[N, D]`, features of noisy images.
        clean: `[N, D]`, features of the same images without noise, in the same order.
    """
    noisy, clean = F.normalize(noisy, dim=1), F.normalize(clean, dim=1)
    nearest = torch.cat([(rows @ clean.T).argmax(dim=1) for rows in noisy.split(_ROWS_AT_ONCE)])
    return (nearest == torch.arange(len(clean), device=clean.device)).float().mean()


class Retrieval(Metric):
    """Measures `retrieval` over the images of all processes."""

    full_state_update = False
    noisy: list[Tensor]
    clean: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("noisy", default=[], dist_reduce_fx="cat")
        self.add_state("clean", default=[], dist_reduce_fx="cat")

    def update(self, noisy: Tensor, clean: Tensor) -> None:
        """Takes the features `[B, D]` of a batch of images."""
        self.noisy.append(noisy)
        self.clean.append(clean)

    def compute(self) -> Tensor:
        return retrieval(dim_zero_cat(self.noisy), dim_zero_cat(self.clean))
