"""Colourisation: only the mean of the channels is measured."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.corruptions.operators.interface import LinearOperator

WEIGHTS = (0.3333, 0.3334, 0.3333)


@dataclass(frozen=True)
class Grayscale(LinearOperator):
    """Mean of the three channels of each pixel: y = w^T x, w = (.3333, .3334, .3333), H^+ y = w y / |w|^2."""

    def measured_channels(self, channels: int) -> int:
        return 1

    def forward(self, image: Tensor) -> Tensor:
        return (self._weights(image) * image).sum(dim=1, keepdim=True)

    def transpose(self, measured: Tensor) -> Tensor:
        return self._weights(measured) * measured

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        weights = self._weights(measured)
        return weights * measured / weights.square().sum()

    def apply_filter(self, image: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        weights = self._weights(image)
        seen = weights * (weights * image).sum(dim=1, keepdim=True) / weights.square().sum()
        return gain(weights.norm()) * seen + gain(weights.new_zeros(())) * (image - seen)

    @staticmethod
    def _weights(like: Tensor) -> Tensor:
        return torch.tensor(WEIGHTS, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)
