"""Means over images of a number that each of them has."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class MeanOverImages(MeanMetric):
    """The mean of what `update` is given, summed in float64, so that it does not depend on batches."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)

    def compute(self) -> Tensor:
        return super().compute().float()
