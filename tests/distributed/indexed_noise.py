"""rRCM's modules with noise that belongs to the image, so that any number of processes draw the same."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.robustness.rrcm.pretraining import RRCMPretraining


class IndexedNoise(RRCMPretraining):
    """Noise e of image i is a fixed function of i."""

    def noise(self, batch: Any) -> Tensor:
        image = batch["image"]
        place = torch.arange(image[0].numel(), dtype=image.dtype).view(image[0].shape)
        index = batch["index"].to(image.dtype).view(-1, 1, 1, 1)
        return 2**0.5 * torch.sin(12.9898 * (index + 1) + 78.233 * place)


class Mirrored(nn.Module):
    """A view that draws nothing."""

    def forward(self, image: Tensor) -> Tensor:
        return 0.8 * image.flip(3)
