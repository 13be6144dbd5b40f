"""Learning-rate schedules that PyTorch lacks.

Schedules that are stepped after each batch, and not after each epoch, have the attribute `interval = "step"`.
"""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, PolynomialLR, StepLR

from datamodules.arguments import at_least, one_of, positive, within


class CosineOverSteps(CosineAnnealingLR):
    """PyTorch's `CosineAnnealingLR`, stepped after every batch.

    `T_max` counts batches.
    """

    interval = "step"


class PolynomialOverSteps(PolynomialLR):
    """PyTorch's `PolynomialLR`, stepped after every batch.

    `total_iters` counts batches.
    """

    interval = "step"


class StepOverSteps(StepLR):
    """PyTorch's `StepLR`, stepped after every batch.

    `step_size` counts batches.
    """

    interval = "step"


def cosine_factor(epoch: int, epochs: int, constant_epochs: int) -> float:
    """Compute the ratio lr(t) / lr_0 at epoch t, counted from 0.

    The ratio is 0 from epoch T on, where T is `epochs`.
    """
    if epoch < constant_epochs:
        return 1.0
    progress = (epoch - constant_epochs + 1) / (epochs - constant_epochs + 1)
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class CosineSchedule(LambdaLR):
    """Constant learning rate for W epochs, then cosine annealing.

    As in PLS and LSA, the learning rate does not reach zero before epoch T.

        lr(t) = lr_0 for t < W,    lr(t) = lr_0 (1 + cos(pi (t - W + 1) / (T - W + 1))) / 2 for W <= t < T

    Args:
        optimizer: optimizer with learning rate lr_0.
        epochs: length T of the schedule in epochs.
        constant_epochs: number W of epochs at lr_0, in 0...T - 1.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, constant_epochs: int = 0) -> None:
        at_least(1, epochs=epochs)
        within(0, epochs, "[)", constant_epochs=constant_epochs)
        super().__init__(optimizer, lambda epoch: cosine_factor(epoch, epochs, constant_epochs))


class WarmupConstant(LambdaLR):
    """Linear warmup over steps, then a constant learning rate: lr min(k / w, 1) at step k = 0, 1, ...

    The learning rate is 0 in the first step, as in the published code of score models.

    Args:
        optimizer: optimizer whose learning rates the schedule scales.
        warmup: length w of the warmup, in steps (batches).
    """

    interval = "step"

    def __init__(self, optimizer: Optimizer, warmup: int) -> None:
        at_least(1, warmup=warmup)
        super().__init__(optimizer, lambda step: min(step / warmup, 1.0))


class WarmupLinear(LambdaLR):
    """Linear warmup of the learning rate over steps, then linear decay to zero, as in the Trainer of `transformers`.

        lr k / w for k < w, then lr (n - k) / (n - w), at step k = 0, 1, ...

    Args:
        optimizer: optimizer whose learning rates the schedule scales.
        warmup: length w of the warmup in steps (batches); 0 skips the warmup.
        length: length n of the whole schedule in steps; the learning rate is 0 afterwards.
    """

    interval = "step"

    def __init__(self, optimizer: Optimizer, warmup: int, length: int) -> None:
        within(0, length, "[)", warmup=warmup)
        super().__init__(optimizer, lambda k: k / warmup if k < warmup else max(length - k, 0) / (length - warmup))


class HyperbolicOverSteps(LambdaLR):
    """Hyperbolic decay in stages: learning rate lr / (floor(t / delta) delta / d + 1) at batch t = 0, 1, ...

    Args:
        optimizer: optimizer whose learning rates the schedule scales.
        half_life: number d of batches after which the hyperbola reaches lr / 2.
        every: number delta of batches per stage; the learning rate is constant within a stage.
    """

    interval = "step"

    def __init__(self, optimizer: Optimizer, half_life: float, every: int = 1) -> None:
        positive(half_life=half_life)
        at_least(1, every=every)
        super().__init__(optimizer, lambda step: 1 / (step // every * every / half_life + 1))


class WarmupCosine(LambdaLR):
    """Linear warmup of the learning rate, then cosine annealing to zero.

        lr (k + 1) / w for k < w, then lr (1 + cos(pi (k - w) / (n - w))) / 2, at k = 0, 1, ...

    The published schedule starts with one step or epoch in which the learning rate is 0. It is left out here.

    Args:
        optimizer: optimizer whose learning rates the schedule scales.
        warmup: length w of the warmup; 0 skips the warmup.
        length: length n of the whole schedule; the learning rate is 0 afterwards.
        interval: unit of `warmup` and `length`: `epoch`, or `step` (a batch).
    """

    def __init__(
        self, optimizer: Optimizer, warmup: int, length: int, interval: Literal["epoch", "step"] = "epoch"
    ) -> None:
        within(0, length, "[)", warmup=warmup)
        one_of(("epoch", "step"), interval=interval)
        self.interval = interval

        def scale(k: int) -> float:
            if k < warmup:
                return (k + 1) / warmup
            return (1 + math.cos(math.pi * min((k - warmup) / (length - warmup), 1.0))) / 2

        super().__init__(optimizer, scale)


class ExponentialWarmupCosine(LambdaLR):
    """Cosine annealing to zero over steps, multiplied by an exponential warmup, as in adaptive smoothing.

        lr (1 - exp(-(k + 1) / w)) (1 + cos(pi k / n)) / 2, at step k = 0, 1, ...

    Args:
        optimizer: optimizer whose learning rates the schedule scales.
        warmup: time constant w of the warmup, in steps (batches).
        length: length n of the whole schedule in steps; the learning rate is 0 afterwards.
    """

    interval = "step"

    def __init__(self, optimizer: Optimizer, warmup: int, length: int) -> None:
        at_least(1, warmup=warmup, length=length)
        super().__init__(
            optimizer,
            lambda k: -math.expm1(-(k + 1) / warmup) * (1 + math.cos(math.pi * min(k / length, 1.0))) / 2,
        )


class TimmCosine(LambdaLR):
    """Linear warmup from an initial learning rate, then cosine annealing to a minimum, as in timm.

        lr_1 + k (lr - lr_1) / w for k < w,    lr_n + (lr - lr_n) (1 + cos(pi k / n)) / 2 for w <= k < n,    then lr_n

    The cosine starts at k = 0, not at the end of the warmup. The learning rate therefore drops slightly when the warmup
    ends. Epochs after n correspond to timm's cooldown.

    Args:
        optimizer: optimizer with the same learning rate lr in all groups.
        warmup: length w of the warmup; 0 skips the warmup.
        length: n, length of the cosine.
        first_lr: initial learning rate lr_1 of the warmup.
        least_lr: lr_n, the minimum learning rate.
        interval: unit of `warmup` and `length`: `epoch`, or `step` (a batch).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int,
        length: int,
        first_lr: float,
        least_lr: float,
        interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        within(0, length, "[)", warmup=warmup)
        at_least(0, first_lr=first_lr, least_lr=least_lr)
        one_of(("epoch", "step"), interval=interval)
        self.interval = interval
        [lr] = {group.get("initial_lr", group["lr"]) for group in optimizer.param_groups}

        def scale(k: int) -> float:
            if k < warmup:
                return (first_lr + k * (lr - first_lr) / warmup) / lr
            return (least_lr + (lr - least_lr) * (1 + math.cos(math.pi * min(k / length, 1.0))) / 2) / lr

        super().__init__(optimizer, scale)


class PiecewiseConstant(LambdaLR):
    """Scale the learning rate by a factor that changes at given epochs.

    Args:
        optimizer: optimizer whose learning rates the schedule scales.
        factors: dict from epochs to factors. A factor applies from its epoch on, until the next epoch in the dict.
            Before the first epoch in the dict, the factor is 1. Epochs are counted from 0.
    """

    def __init__(self, optimizer: Optimizer, factors: dict[int, float]) -> None:
        for start, factor in factors.items():
            at_least(1, epoch_in_factors=start)
            at_least(0, factor=factor)

        def scale(epoch: int) -> float:
            return {0: 1.0, **factors}[max((start for start in factors if start <= epoch), default=0)]

        super().__init__(optimizer, scale)


def held_then_linear_factor(epoch: int, epochs: int, last: float) -> float:
    """Compute the ratio lr(t) / lr_0 at epoch t, counted from 0."""
    progress = min(max((epoch / epochs - 0.5) / 0.4, 0.0), 1.0)
    return 1 - (1 - last) * progress


class HeldThenLinear(LambdaLR):
    """A learning rate that is constant for half of the epochs, falls linearly until 90 % of them, and is then constant.

    Args:
        optimizer: optimizer whose learning rates the schedule scales.
        epochs: length of the schedule in epochs.
        last: final learning rate, divided by the initial learning rate.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, last: float = 0.01) -> None:
        at_least(1, epochs=epochs)
        within(0, 1, last=last)
        super().__init__(optimizer, lambda epoch: held_then_linear_factor(epoch, epochs, last))
