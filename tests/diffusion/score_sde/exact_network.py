"""The best network for images with Gaussian pixels."""

import torch
from torch import Tensor, nn

from lightning_modules.sde.processes import VE, Process
from tests.sde.exact import gaussian_score

MEAN, DEVIATION = 0.6, 0.1
"""Mean and standard deviation of the pixels; the images are in [0, 1]."""


class Exact(nn.Module):
    """Returns the score for VE, and the noise for other processes, at the given noise level."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.process = process

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        if isinstance(self.process, VE):
            return gaussian_score(self.process, MEAN, DEVIATION)(x, self.process.time_of(level)) + self.anchor
        t = level / 999
        score = gaussian_score(self.process, 2 * MEAN - 1, 2 * DEVIATION)(x, t)
        return -score * self.process.deviation(t).view(-1, 1, 1, 1) + self.anchor  # type: ignore[attr-defined]
