"""The learning rates of both stages: of the classifier, and in the first one of the policy."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from datamodules.arguments import at_least, positive, within


class MaskThenTuning(LambdaLR):
    """Step the classifier's rate down under masks, then tune it at another; lower the policy's along a cosine.

        under masks  lr gamma^(e // step), policy lr_p (1 + cos(pi e / mask_epochs)) / 2
        tuning       rises linearly from warmup_factor tuning_rate over warmup_epochs, then steps down

    Args:
        optimizer: its first group is the classifier, the second one, if there is one, the policy.
        mask_epochs: epochs under masks.
        tuning_rate: learning rate of the tuning.
        step: epochs between two steps.
        gamma: factor of a step.
        warmup_epochs: epochs of the rise.
        warmup_factor: part of `tuning_rate` that it begins with.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mask_epochs: int,
        tuning_rate: float,
        step: int = 30,
        gamma: float = 0.1,
        warmup_epochs: int = 0,
        warmup_factor: float = 0.01,
    ) -> None:
        at_least(0, mask_epochs=mask_epochs, warmup_epochs=warmup_epochs)
        at_least(1, step=step)
        positive(tuning_rate=tuning_rate, gamma=gamma)
        within(0, 1, "(]", warmup_factor=warmup_factor)
        tuned = tuning_rate / optimizer.param_groups[0]["lr"]

        def classifier(epoch: int) -> float:
            if epoch < mask_epochs:
                return gamma ** (epoch // step)
            after = epoch - mask_epochs
            if after < warmup_epochs:
                return tuned * (warmup_factor + (1 - warmup_factor) * after / warmup_epochs)
            return tuned * gamma ** ((after - warmup_epochs) // step)

        def policy(epoch: int) -> float:
            return (1 + math.cos(math.pi * epoch / mask_epochs)) / 2 if epoch < mask_epochs else 0.0

        factors: Any = [classifier, policy]  # of a type that LambdaLR calls another, as lists are invariant
        super().__init__(optimizer, factors[: len(optimizer.param_groups)])
