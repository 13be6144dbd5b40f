"""Training steps of image classifiers whose weights are recomputed in each step, for timing."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

BATCH = 8
"""Images per step; full training would use 64.

The cost of transforming the weights does not depend on the number of images, so the ratio for 64 images is below the
measured ratio.
"""


def stepping(network: nn.Module) -> Callable[[], None]:
    """Return a function that takes one AdamW step on fixed 224 x 224 images, with cross-entropy over 10 classes."""
    optimizer = torch.optim.AdamW(network.parameters())
    image, label = torch.rand(BATCH, 3, 224, 224), torch.randint(10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(image), label).backward()
        optimizer.step()

    return step
