"""Views of data that are no photographs: added noise."""

import torch
from torch import Tensor, nn

from lightning_modules.distributed.draws import draw_rows_like


class AddedNoise(nn.Module):
    """x + sigma n with n ~ N(0, 1), kept in [0, 1].

    Args:
        sigma: standard deviation, at least 0, in units of the range.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"sigma must be at least 0, got {sigma}")
        self.sigma = sigma

    def forward(self, image: Tensor) -> Tensor:
        return (image + self.sigma * draw_rows_like(torch.randn, image)).clamp(0, 1)
