"""Optimizers that, as in timm, do not decay biases, scales of normalisation, position embeddings and class tokens.

These parameters are recognised by their shape: they have one dimension, or a first dimension of length 1.
"""

from collections.abc import Iterable
from typing import Any

import timm.optim
from torch import Tensor


def decay_groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into one group with weight decay and one group without; leave out empty groups."""
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in parameters:
        groups[parameter.ndim > 1 and len(parameter) > 1].append(parameter)
    decays = (0.0, weight_decay)
    return [{"params": own, "weight_decay": decay} for own, decay in zip(groups, decays, strict=True) if own]


class Lamb(timm.optim.Lamb):
    """timm's LAMB optimizer, without weight decay for vectors, position embeddings and class tokens.

    Args:
        params: trainable parameters.
        lr: learning rate.
        weight_decay: weight decay of all parameters except vectors, position embeddings and class tokens.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.01) -> None:
        super().__init__(decay_groups(params, weight_decay), lr=lr)
