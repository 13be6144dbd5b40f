"""A learning rate that rises linearly and then falls to zero along a cosine."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """lr (k + 1) / w for k < w, then lr (1 + cos(pi (k - w) / (n - w))) / 2, at k = 0, 1, ...

    The published schedule begins with a step, or an epoch, at a learning rate of 0, which this one leaves out.

    Args:
        optimizer: whose learning rates are scaled.
        warmup: w; 0 leaves the rise out.
        length: n, from where on the learning rate is 0. Steps or epochs, as the module steps it.

    Raises:
        ValueError: if `length` does not exceed `warmup`.
    """

    def __init__(self, optimizer: Optimizer, warmup: int, length: int) -> None:
        if not 0 <= warmup < length:
            raise ValueError(f"warmup must be in 0...length - 1, {length - 1}, got {warmup}")

        def scale(k: int) -> float:
            if k < warmup:
                return (k + 1) / warmup
            return (1 + math.cos(math.pi * min((k - warmup) / (length - warmup), 1.0))) / 2

        super().__init__(optimizer, scale)
