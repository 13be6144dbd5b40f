"""A round's exchange: honest nodes send, Byzantine ones send what they make of that, and each mixes what it hears."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.distributed.independent import Hosted
from lightning_modules.optimization.monna.aggregation import Rule
from lightning_modules.optimization.monna.byzantine import ByzantineAttack, Round


def responders(honest: int, others: int, generator: torch.Generator) -> Tensor:
    """Draw for each of H honest nodes which others it hears, uniformly, and put itself last: `[H, others + 1]`."""
    lots = torch.rand(honest, honest, generator=generator, dtype=torch.float64)  # whatever the trainer's precision
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
    """Let nodes send vectors and make new ones of what they hear: themselves, H - f - 1 others and f Byzantine nodes.

    Every process calls it, and makes by itself what Byzantine nodes send.

    Args:
        own: what this process's nodes send, `[k, D]`.
        hosted: which these are.
        rule: makes one vector of several.
        byzantine: f.
        attack: makes what Byzantine nodes send.
        number: of the round.
        generator: on the host, the same on all processes, for who is heard.
        poison: `Round.poisoned`, `[D]`; None where the attack flips no labels.
        relative: whether it is to be added to the mean of what honest nodes send.

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
