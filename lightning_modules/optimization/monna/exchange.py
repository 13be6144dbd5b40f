"""A round's exchange: honest nodes send models, Byzantine nodes an attack, and each node aggregates its messages."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.distributed.independent import Hosted
from lightning_modules.optimization.monna.aggregation import Rule
from lightning_modules.optimization.monna.byzantine import ByzantineAttack, Round


def responders(honest: int, others: int, generator: torch.Generator) -> Tensor:
    """Sample uniformly the senders that each of H honest nodes receives; its own index is last: `[H, others + 1]`."""
    lots = torch.rand(honest, honest, generator=generator, dtype=torch.float64)  # for any trainer precision
    lots.fill_diagonal_(torch.inf)
    return torch.cat([lots.argsort(dim=1)[:, :others], torch.arange(honest)[:, None]], dim=1)


def exchanged(
    own: Tensor,
    hosted: Hosted,
    rule: Rule,
    byzantine: int,
    attack: ByzantineAttack | None,
    number: int,
    generator: torch.Generator,
    poison: Tensor | None = None,
    relative: bool = False,
) -> Tensor:
    """Run a round: each node aggregates its own vector, those of H - f - 1 other honest nodes, and f Byzantine vectors.

    Every rank must call this function; each rank computes the Byzantine vector itself.

    Args:
        own: vectors sent by this rank's nodes, `[k, D]`.
        hosted: indices of this rank's nodes.
        rule: rule that aggregates the vectors a node receives.
        byzantine: f.
        attack: attack that computes the Byzantine vector.
        number: index of the round.
        generator: random generator on the CPU, the same on all ranks; samples which vectors each node receives.
        poison: mean honest vector for flipped labels, as in `Round.poisoned`, `[D]`; None unless the attack flips
            labels.
        relative: whether `poison` is relative to the mean of the honest vectors.

    Returns:
        `[k, D]`.
    """
    vectors = hosted.whole(own)
    places = responders(hosted.count, hosted.count - byzantine - 1, generator)
    heard = hosted.part(F.pad(places, (0, byzantine), value=hosted.count)).to(own.device, non_blocking=True)
    if attack is not None:
        if poison is not None and relative:
            poison = vectors.mean(dim=0) + poison
        sent = attack(Round(vectors, byzantine, rule, number, poison))
        vectors = torch.cat([vectors, sent[None]])
    return rule(own.detach(), vectors, heard, byzantine)
