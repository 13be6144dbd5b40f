"""Learning rates that fall from the head of a transformer to its first layer.

A parameter of block i has the depth i + 1, patches' embedding, positions and the class token have 0, and everything
behind the L blocks has L + 1. Its learning rate is multiplied by d^{L + 1 - depth}. Vectors and numbers (biases, norms)
are not decayed towards zero.

Source: Bao, Dong, Piao and Wei, BEiT: BERT Pre-Training of Image Transformers, ICLR 2022, arXiv 2106.08254.
"""

from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

STEM = ("cls_token", "pos_embed", "patch_embed")


def layer_of(name: str, num_blocks: int) -> int:
    """The depth of a parameter of an encoder whose blocks are named `blocks.<i>`."""
    first, *rest = name.split(".")
    if first in STEM:
        return 0
    return int(rest[0]) + 1 if first == "blocks" else num_blocks + 1


def optimizer_with_layer_decay(
    optimizer: OptimizerCallable, encoder: nn.Module, head: nn.Module, decay: float
) -> Optimizer:
    """Builds an optimizer on the trainable parameters of both.

    Args:
        optimizer: its learning rate is that of the head.
        encoder: with blocks in `blocks`; without any, all of it counts as the head.
        head: what follows the encoder.
        decay: d, in (0, 1].
    """
    num_blocks = len(getattr(encoder, "blocks", ()))
    named = [(layer_of(name, num_blocks), parameter) for name, parameter in encoder.named_parameters()]
    named += [(num_blocks + 1, parameter) for parameter in head.parameters()]
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for layer, parameter in named:
        if parameter.requires_grad:
            group = groups.setdefault((layer, parameter.ndim > 1), {"params": []})
            group["params"].append(parameter)
    for (_, decayed), group in groups.items():
        if not decayed:
            group["weight_decay"] = 0.0
    built = optimizer(list(groups.values()))
    for (layer, _), group in zip(groups, built.param_groups, strict=True):
        group["lr"] *= decay ** (num_blocks + 1 - layer)
    return built
