"""Learning-rate schedules of the classifier and the policy for pre-training and tuning."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from datamodules.arguments import at_least, positive, within


class MaskThenTuning(LambdaLR):
    """A cosine schedule for the policy, and a step schedule for the classifier, which warms up when tuning starts.

        with masks   classifier lr gamma^(e // step), policy lr_p (1 + cos(pi e / mask_epochs)) / 2
        tuning       classifier rises linearly from warmup_factor tuning_rate over warmup_epochs, then steps down

    Args:
        optimizer: optimizer whose first parameter group contains the classifier; a second group, if there is one,
            contains the policy.
        mask_epochs: number of epochs with masks.
        tuning_rate: learning rate of the classifier at the start of tuning, after the warm-up.
        step: number of epochs between two decreases of the learning rate.
        gamma: factor by which the learning rate is multiplied at each decrease.
        warmup_epochs: number of epochs of linear warm-up at the start of tuning.
        warmup_factor: learning rate at the start of the warm-up, as a fraction of `tuning_rate`.
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

        factors: Any = [classifier, policy]  # the type annotation of LambdaLR does not accept this list type
        super().__init__(optimizer, factors[: len(optimizer.param_groups)])
