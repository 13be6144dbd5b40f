"""Attacks in which all Byzantine nodes send the same vector to everyone.

The vector depends on those of the honest nodes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least
from lightning_modules.optimization.monna.aggregation import Rule

EVALUATIONS = 16
"""Number of evaluations of the line search for an attack's factor."""


class Round(NamedTuple):
    """All that Byzantine nodes know about a round before they send their vector."""

    honest: Tensor
    """`[H, D]`: vectors sent by the honest nodes."""
    byzantine: int
    """f."""
    rule: Rule
    number: int
    """t, from 0."""
    poisoned: Tensor | None = None
    """`[D]`: mean vector of the honest nodes if the labels of this round's batch had been flipped, for an attack that
    `flips_labels`."""


def line_maximum(function: Callable[[Tensor], Tensor], like: Tensor, evaluations: int = EVALUATIONS) -> Tensor:
    """Return the x >= 0 at which a function is approximately maximal.

    The search uses a given number of evaluations. The search starts at x = 0 with step 1. It doubles the step as long
    as the value increases. Then each evaluation multiplies the step by 0.8. The evaluations try the two sides of the
    best x in turn. The search needs no synchronisation with the device.

    Args:
        function: function to maximise, which maps a float64 scalar tensor to a scalar.
        like: tensor on the device that the search uses.
        evaluations: number of evaluations of the function.
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
        # Halved as often as needed to keep x - step nonnegative.
        halvings = torch.log2(step / x).ceil().clamp(min=0)
        back = (x - step * torch.exp2(-halvings)).clamp(min=0)
        x = torch.where(rises, best + step, torch.where(x < best, x + step, back))
    return best


def most_harmful(situation: Round, direction: Tensor) -> Tensor:
    """Move the honest mean along a direction, `[D]`.

    The step is the one that moves `Rule.answer` farthest from that mean.
    """
    mean = situation.honest.mean(dim=0)
    eta = line_maximum(situation.rule.harm_along(situation.honest, situation.byzantine, direction), mean)
    return mean + eta * direction


class ByzantineAttack(nn.Module, ABC):
    """An attack.

    It computes the vector that all Byzantine nodes send.
    """

    flips_labels = False
    """Whether the attack needs gradients for flipped labels."""

    def allocate(self, size: int) -> None:
        """Allocate the state of the attack for vectors of a given size."""

    @abstractmethod
    def forward(self, situation: Round) -> Tensor:
        """Compute the vector that all Byzantine nodes send, `[D]`."""

    def learns(self, number: int) -> bool:
        """Return whether the attack observes the honest models at the end of round t."""
        return False

    def learn(self, models: Tensor, number: int) -> None:
        """Observe the honest models `[H, D]` at the end of round t."""


class SignFlip(ByzantineAttack):
    """Send the negative mean of the honest vectors."""

    def forward(self, situation: Round) -> Tensor:
        return -situation.honest.mean(dim=0)


class ALittleIsEnough(ByzantineAttack):
    """Send the mean plus a multiple of the standard deviation of each coordinate.

    The factor is the most harmful one (ALIE).
    """

    def forward(self, situation: Round) -> Tensor:
        return most_harmful(situation, situation.honest.std(dim=0))


class FallOfEmpires(ByzantineAttack):
    """Send the mean minus a multiple of the mean.

    The factor is the most harmful one (FOE).
    """

    def forward(self, situation: Round) -> Tensor:
        return most_harmful(situation, -situation.honest.mean(dim=0))


class LabelFlip(ByzantineAttack):
    """Send the mean vector that the honest nodes would have sent after training on labels K - 1 - y instead of y."""

    flips_labels = True

    def forward(self, situation: Round) -> Tensor:
        assert situation.poisoned is not None
        return situation.poisoned


class Mimic(ByzantineAttack):
    """Send a copy of the vector of one honest node.

    This vector then counts several times. At first, the copied node is node 0. After a number of observed rounds, it is
    the node with the largest |<x_i, z>|. Here z tracks the direction in which the models have the largest variance.
    With w = (t + 1) / (t + 2) at the end of round t,

        mu <- w mu + (1 - w) mean_i x_i,  s = sum_i <x_i - mu, z> (x_i - mu),  z <- w z + (1 - w) s / |s|, of length 1.

    The code of the authors multiplies by |<x_i - mu, z>|, which does not track a direction of variance. It also scales
    z by w twice.

    Args:
        learning_rounds: number of observed rounds; with 0, the vector of node 0 is always sent; the authors use 100.
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
