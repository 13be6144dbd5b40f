"""What generic tests put in the place of parts that draw at random or look at a process's whole share."""

import torch
from torch import Tensor, nn


class Darker(nn.Module):
    """A view without chance."""

    def forward(self, image: Tensor) -> Tensor:
        return image**2


class Segmenter(nn.Sequential):
    """A segmenter without BatchNorm, whose statistics are those of a process's share."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        body = [nn.Conv2d(in_channels, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU()]
        super().__init__(*body, nn.Conv2d(4, num_classes, 1))


def normal(*shape: int) -> Tensor:
    """Numbers like normal ones, and the same for every sample: a batch's dimension is in front of the last three."""
    size = torch.Size(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else torch.Size(shape)
    of_a_sample = size[-3:] if len(size) > 3 else size[1:]
    numbers = 2**0.5 * torch.sin(12.9898 * torch.arange(1, of_a_sample.numel() + 1))
    return numbers.view(of_a_sample).expand(size).clone()
