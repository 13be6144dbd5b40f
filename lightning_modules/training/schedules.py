"""Learning-rate schedules that PyTorch lacks. One that counts batches in place of epochs has `interval = "step"`."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, PolynomialLR


class PolynomialOverSteps(PolynomialLR):
    """PyTorch's polynomial decay, stepped after every batch: `total_iters` counts batches."""

    interval = "step"


def cosine_factor(epoch: int, epochs: int, constant_epochs: int) -> float:
    """lr(t) / lr_0 at epoch t, counted from 0; from T on 0."""
    if epoch < constant_epochs:
        return 1.0
    progress = (epoch - constant_epochs + 1) / (epochs - constant_epochs + 1)
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class CosineSchedule(LambdaLR):
    """Keep the learning rate for W epochs, then lower it along a cosine that never reaches zero, as PLS and LSA do.

        lr(t) = lr_0 for t < W,    lr(t) = lr_0 (1 + cos(pi (t - W + 1) / (T - W + 1))) / 2 for W <= t < T

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


class WarmupCosine(LambdaLR):
    """Raise the learning rate linearly, then lower it to zero along a cosine.

        lr (k + 1) / w for k < w, then lr (1 + cos(pi (k - w) / (n - w))) / 2, at k = 0, 1, ...

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
