"""Exchange and aggregation of vectors in a round.

Honest nodes send their vectors, Byzantine nodes send the vector of an attack, and each honest node aggregates the
vectors that it receives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.distributed.independent import Hosted
from lightning_modules.optimization.monna.aggregation import Rule
from lightning_modules.optimization.monna.byzantine import ByzantineAttack, Round


def responders(honest: int, others: int, generator: torch.Generator) -> Tensor:
    """Sample uniformly, for each of H honest nodes, the honest nodes whose vectors it receives, `[H, others + 1]`.

    The last index in each row is the node itself.
    """
    lots = torch.rand(honest, honest, generator=generator, dtype=torch.float64)  # for any trainer.precision
    lots.fill_diagonal_(torch.inf)
    return torch.cat([lots.argsort(dim=1)[:, :others], torch.arange(honest)[:, None]], dim=1)


def exchange_vectors(
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
    """Exchange and aggregate the vectors of a round.

    Each honest node aggregates its own vector, the vectors of H - f - 1 other honest nodes, and f Byzantine vectors.

    Every rank must call this function, because it gathers the vectors of all ranks. Each rank computes the Byzantine
    vector itself.

    Args:
        own: vectors that the nodes of this rank send, `[k, D]`.
        hosted: assignment of the honest nodes to ranks.
        rule: rule that aggregates the vectors that a node receives.
        byzantine: number f of Byzantine nodes.
        attack: attack that computes the Byzantine vector.
        number: index of the round.
        generator: random generator on the CPU that samples which vectors each node receives; it must have the same
            state on all ranks.
        poison: mean vector of the honest nodes if labels were flipped (see `Round.poisoned`), `[D]`; None if the attack
            does not flip labels.
        relative: whether `poison` must be added to the mean of the honest vectors.

    Returns:
        The aggregated vectors of the nodes of this rank, `[k, D]`.
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
