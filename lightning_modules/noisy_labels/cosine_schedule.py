"""The cosine schedule of PLS and LSA: epoch by epoch, never quite the whole rate and never quite zero.

lr(t) = lr_0 for t < W,    lr(t) = lr_0 (1 + cos(pi (t - W + 1) / (T - W + 1))) / 2 for W <= t < T
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_factor(epoch: int, epochs: int, constant_epochs: int) -> float:
    """lr(t) / lr_0 at epoch t, counted from 0; from T on 0."""
    if epoch < constant_epochs:
        return 1.0
    progress = (epoch - constant_epochs + 1) / (epochs - constant_epochs + 1)
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class CosineSchedule(LambdaLR):
    """Steps every epoch.

    Args:
        optimizer: whose learning rates are lr_0.
        epochs: T.
        constant_epochs: W, in 0...T - 1.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, constant_epochs: int = 0) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        if not 0 <= constant_epochs < epochs:
            raise ValueError(f"constant_epochs must be in 0...{epochs - 1}, got {constant_epochs}")
        super().__init__(optimizer, lambda epoch: cosine_factor(epoch, epochs, constant_epochs))
