"""The networks inside of the equation."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def tanh_layers(in_features: int, hidden_features: Sequence[int], out_features: int, zero: bool = False) -> nn.Module:
    """Build Linear-tanh-...-Linear.

    Args:
        in_features: inputs.
        hidden_features: widths of the hidden layers.
        out_features: outputs.
        zero: whether the last layer begins as 0, so that a control first does nothing and costs nothing.
    """
    layers: list[nn.Module] = []
    for narrow, wide in pairwise([in_features, *hidden_features]):
        layers += [nn.Linear(narrow, wide), nn.Tanh()]
    last = nn.Linear(hidden_features[-1], out_features)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
