"""Averages of weights that follow a network while it is trained."""

import torch
from torch import nn


@torch.no_grad()
def move_average(average: nn.Module, trained: nn.Module, decay: float) -> None:
    """Move the parameters of an average a little towards those of a trained network, in place.

        e <- decay e + (1 - decay) theta

    Buffers, such as the statistics of batch normalisation, stay as they are.

    Args:
        average: e, of the same architecture.
        trained: theta.
        decay: the weight that the average keeps, in [0, 1].
    """
    torch._foreach_lerp_(list(average.parameters()), list(trained.parameters()), 1 - decay)
