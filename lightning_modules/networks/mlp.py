"""The multilayer perceptron: affine maps with an activation between them, on flattened images."""

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from datamodules.arguments import one_of

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Linear-activation-...-Linear.

    Args:
        in_features: number of values of an input; for images, C H W.
        hidden_features: widths of the hidden layers; an empty list gives a linear model.
        out_features: number of outputs.
        activation: `relu` or `tanh`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: list[int],
        out_features: int,
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        one_of(ACTIVATIONS, activation=activation)
        for key, widths in (
            ("in_features", [in_features]),
            ("hidden_features", hidden_features),
            ("out_features", [out_features]),
        ):
            if any(width < 1 for width in widths):
                raise ValueError(f"{key} must be positive, got {widths if key == 'hidden_features' else widths[0]}")
        widths = [in_features, *hidden_features]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Linear(narrow, wide), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], out_features))
        self.in_features = in_features

    def forward(self, image: Tensor) -> Tensor:
        """Map inputs `[B, ...]`, with `in_features` values per sample, to outputs `[B, out_features]`."""
        values = math.prod(image.shape[1:])
        if values != self.in_features:
            raise ValueError(
                f"in_features is {self.in_features}, but an input {list(image.shape[1:])} has {values} values"
            )
        return self.layers(image.flatten(start_dim=1))
