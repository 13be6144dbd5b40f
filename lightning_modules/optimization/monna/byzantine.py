"""Attacks in which all Byzantine nodes send the same vector to all nodes.

This vector depends on the vectors of the honest nodes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least
from lightning_modules.optimization.monna.aggregation import Rule

EVALUATIONS = 16
"""Number of function evaluations in the line search that determines the factor of an attack."""


class Round(NamedTuple):
    """Everything that the Byzantine nodes know about a round when they compute their vector."""

    honest: Tensor
    """Vectors that the honest nodes send, `[H, D]`."""
    byzantine: int
    """Number f of Byzantine nodes."""
    rule: Rule
    number: int
    """Index t of the round, from 0."""
    poisoned: Tensor | None = None
    """Mean vector, `[D]`, that the honest nodes would have sent if the labels of this round's batch had been flipped;
    None unless the attack `flips_labels`."""


def line_maximum(function: Callable[[Any], Any], zero: Any, evaluations: int = EVALUATIONS) -> Any:
    """Return the approximate maximiser x >= 0 of a function.

    The search starts at x = 0 with a step of 1, and doubles the step as long as the value increases. After that, each
    evaluation multiplies the step by 0.8, and the evaluations try points above and below the best x in turn. The search
    stops after a given number of evaluations. With tensors, it does not synchronise the host with the device.

    Args:
        function: function to maximise, which maps a scalar to a scalar.
        zero: the number 0, which determines the type of all numbers: a float64 tensor on any device, or a Python
            number, which takes less time on the CPU.
        evaluations: number of evaluations of the function.
    """
    tensors = isinstance(zero, Tensor)
    library: Any = torch if tensors else math
    where: Any = torch.where if tensors else lambda condition, yes, no: yes if condition else no
    best, step, rises = zero, zero + 1, zero == 0
    highest, x = function(best), best + step
    for _ in range(evaluations - 1):
        value = function(x)
        better = value > highest
        highest, best = where(better, value, highest), where(better, x, best)
        rises = rises & better
        step = where(rises, 2 * step, 0.8 * step)
        # The step is halved until x - step is nonnegative.
        halvings = library.ceil(library.log2(step / (x + 1e-300)))
        back = x - step * 0.5 ** where(halvings > 0, halvings, 0)
        x = where(rises, best + step, where(x < best, x + step, where(back > 0, back, zero)))
    return best


def most_harmful(situation: Round, direction: Tensor) -> Tensor:
    """Return the most harmful vector on a ray that starts at the mean of the honest vectors, `[D]`.

    The returned vector maximises the distance between the mean output of the rule (see `Rule.answer`) and the mean of
    the honest vectors.
    """
    mean = situation.honest.mean(dim=0)
    zero = 0.0 if mean.is_cpu else mean.new_zeros((), dtype=torch.float64)
    eta = line_maximum(situation.rule.harm_along(situation.honest, situation.byzantine, direction), zero)
    return mean + eta * direction


class ByzantineAttack(nn.Module, ABC):
    """Base class of attacks.

    An attack computes the vector that all Byzantine nodes send.
    """

    flips_labels = False
    """Whether the attack needs gradients that are computed with flipped labels."""

    def allocate(self, size: int) -> None:
        """Allocate the state of the attack for vectors of length `size`."""

    @abstractmethod
    def forward(self, situation: Round) -> Tensor:
        """Compute the vector that all Byzantine nodes send, `[D]`."""

    def learns(self, number: int) -> bool:
        """Return whether the attack must observe the honest models at the end of the round with index `number`."""
        return False

    def learn(self, models: Tensor, number: int) -> None:
        """Update the attack's state from the honest models, `[H, D]`, at the end of the round with index `number`."""


class SignFlip(ByzantineAttack):
    """An attack that sends the negative mean of the honest vectors."""

    def forward(self, situation: Round) -> Tensor:
        return -situation.honest.mean(dim=0)


class ALittleIsEnough(ByzantineAttack):
    """An attack that sends the honest mean plus a multiple of the standard deviation of each coordinate (ALIE).

    The multiple is the most harmful one (see `most_harmful`).
    """

    def forward(self, situation: Round) -> Tensor:
        honest = situation.honest
        variance = (honest - honest.mean(dim=0)).square().sum(dim=0) / (len(honest) - 1)  # on the CPU faster than `var`
        return most_harmful(situation, variance.sqrt())


class FallOfEmpires(ByzantineAttack):
    """An attack that sends the honest mean minus a multiple of this mean (FOE).

    The multiple is the most harmful one (see `most_harmful`).
    """

    def forward(self, situation: Round) -> Tensor:
        return most_harmful(situation, -situation.honest.mean(dim=0))


class LabelFlip(ByzantineAttack):
    """An attack that sends the mean vector that results if honest nodes train on labels K - 1 - y instead of y."""

    flips_labels = True

    def forward(self, situation: Round) -> Tensor:
        assert situation.poisoned is not None
        return situation.poisoned


class Mimic(ByzantineAttack):
    """An attack that sends a copy of the vector of one honest node.

    The copied vector is then overrepresented among the received vectors. In the first `learning_rounds` rounds, node 0
    is copied, and the attack observes the models x_i of the honest nodes. Afterwards, the node with the largest |<x_i,
    z>| is copied, where z tracks the direction of the largest variance of the models. With w = (t + 1) / (t + 2), z is
    updated at the end of round t by

        mu <- w mu + (1 - w) mean_i x_i,  s = sum_i <x_i - mu, z> (x_i - mu),  z <- w z + (1 - w) s / |s|, of length 1.

    In the authors' code, s contains |<x_i - mu, z>|, so that z does not track the direction of the largest variance.
    The authors' code also multiplies z by w twice.

    Args:
        learning_rounds: number of rounds in which the attack observes the models; with 0, node 0 is always copied. The
            authors use 100.
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
