"""Attacks of Byzantine nodes, which all send one vector to everyone, made of all that honest nodes send."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least
from lightning_modules.optimization.monna.aggregation import Rule

EVALUATIONS = 16
"""Of the line search for an attack's factor."""


class Round(NamedTuple):
    """All that Byzantine nodes know of a round before they send."""

    honest: Tensor
    """`[H, D]`: what the honest nodes send."""
    byzantine: int
    """f."""
    rule: Rule
    number: int
    """t, from 0."""
    poisoned: Tensor | None = None
    """`[D]`: what honest nodes would send on average had the labels of this round's batch been flipped, where an attack
    `flips_labels`."""


def line_maximum(function: Callable[[Tensor], Tensor], like: Tensor, evaluations: int = EVALUATIONS) -> Tensor:
    """Find a large value of a function of x >= 0 by a number of evaluations, and return its x.

    From 0 the step, at first 1, doubles as long as the value rises. Then it shrinks by 0.8 with each evaluation, on the
    side of the best x at which the last one was not. The device is not waited for.

    Args:
        function: of a number, a tensor of float64; gives a number.
        like: a tensor on the device.
        evaluations: how many.
    """
    best = torch.zeros((), dtype=torch.float64, device=like.device)
    step, rises = torch.ones_like(best), torch.ones_like(best, dtype=torch.bool)
    highest, x = function(best), best + step
    for _ in range(evaluations - 1):
        value = function(x)
        better = value > highest
        highest, best = torch.where(better, value, highest), torch.where(better, x, best)
        rises = rises & better
        step = torch.where(rises, 2 * step, 0.8 * step)
        # As often halved as keeps x - step from being negative.
        halvings = torch.log2(step / x).ceil().clamp(min=0)
        back = (x - step * torch.exp2(-halvings)).clamp(min=0)
        x = torch.where(rises, best + step, torch.where(x < best, x + step, back))
    return best


def most_harmful(situation: Round, direction: Tensor) -> Tensor:
    """Go from the honest mean along a direction, `[D]`, as far as moves the rule's mean output most (`Rule.answer`)."""
    mean = situation.honest.mean(dim=0)
    eta = line_maximum(situation.rule.harm_along(situation.honest, situation.byzantine, direction), mean)
    return mean + eta * direction


class ByzantineAttack(nn.Module, ABC):
    """A way to make the vector that all Byzantine nodes send."""

    flips_labels = False
    """Whether it needs gradients for flipped labels."""

    def allocate(self, size: int) -> None:
        """Make room for what it keeps of vectors of a size."""

    @abstractmethod
    def forward(self, situation: Round) -> Tensor:
        """Make the vector, `[D]`."""

    def learns(self, number: int) -> bool:
        """Tell whether it looks at the honest models at the end of round t."""
        return False

    def learn(self, models: Tensor, number: int) -> None:
        """Look at the honest models `[H, D]` at the end of round t."""


class SignFlip(ByzantineAttack):
    """Send the negative mean of the honest vectors."""

    def forward(self, situation: Round) -> Tensor:
        return -situation.honest.mean(dim=0)


class ALittleIsEnough(ByzantineAttack):
    """Send the mean plus a multiple of the standard deviation in each coordinate, of the most harmful factor (ALIE)."""

    def forward(self, situation: Round) -> Tensor:
        return most_harmful(situation, situation.honest.std(dim=0))


class FallOfEmpires(ByzantineAttack):
    """Send the mean minus a multiple of itself, of the most harmful factor (FOE)."""

    def forward(self, situation: Round) -> Tensor:
        return most_harmful(situation, -situation.honest.mean(dim=0))


class LabelFlip(ByzantineAttack):
    """Send what honest nodes would on average, had they trained on labels K - 1 - y in place of y."""

    flips_labels = True

    def forward(self, situation: Round) -> Tensor:
        assert situation.poisoned is not None
        return situation.poisoned


class Mimic(ByzantineAttack):
    """Send what one honest node does, so that it counts for several.

    It is node 0, or, once some rounds have been watched, the node with the largest |<x_i, z>|, where z follows the
    direction in which the models vary most: with w = (t + 1) / (t + 2) at the end of round t,

        mu <- w mu + (1 - w) mean_i x_i,  s = sum_i <x_i - mu, z> (x_i - mu),  z <- w z + (1 - w) s / |s|, of length 1.

    The authors' code multiplies by |<x_i - mu, z>|, which follows no direction of variance, and scales z by w twice.

    Args:
        learning_rounds: rounds that are watched; 0 always sends what node 0 does, and the authors take 100.
    """

    mean: Tensor
    direction: Tensor

    def __init__(self, learning_rounds: int = 0) -> None:
        super().__init__()
        at_least(0, learning_rounds=learning_rounds)
        self.learning_rounds = learning_rounds

    def allocate(self, size: int) -> None:
        if self.learning_rounds:
            self.register_buffer("mean", torch.zeros(size))
            self.register_buffer("direction", torch.rand(size))

    def forward(self, situation: Round) -> Tensor:
        if not self.learning_rounds or self.learns(situation.number):
            return situation.honest[0]
        chosen = (situation.honest * self.direction).sum(dim=1).abs().argmax()
        return situation.honest.index_select(0, chosen[None])[0]

    def learns(self, number: int) -> bool:
        return number < self.learning_rounds

    def learn(self, models: Tensor, number: int) -> None:
        weight = (number + 1) / (number + 2)
        self.mean.mul_(weight).add_(models.mean(dim=0), alpha=1 - weight)
        deviation = models - self.mean
        along = (deviation * (deviation * self.direction).sum(dim=1, keepdim=True)).sum(dim=0)
        self.direction.mul_(weight).add_(nn.functional.normalize(along, dim=0), alpha=1 - weight)
        self.direction.copy_(nn.functional.normalize(self.direction, dim=0))
