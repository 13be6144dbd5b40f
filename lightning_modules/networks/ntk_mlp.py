"""The multilayer perceptron in neural tangent kernel scaling, with a mean-field output.

    z_1 = s(W_1 x / sqrt(d)),   z_{l+1} = s(W_{l+1} z_l / sqrt(h_l)),   f(x) = w . z_L / h_L.

All weights are N(0, 1), and there are no biases; s is an activation divided by its root mean square for N(0, 1) inputs.
Without hidden layers, the network is the perceptron f(x) = w . x / sqrt(d).

Source: code of Sclocchi, Geiger and Wyart, arXiv 2301.13703.
"""

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of

Activation = Literal["relu", "gelu", "silu"]


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": _tanh_gelu, "silu": F.silu}


@functools.cache
def root_mean_square(name: str) -> float:
    """Compute the root mean square of an activation function for inputs from N(0, 1), by Gauss-Hermite quadrature."""
    point, weight = (torch.tensor(each, device="cpu") for each in np.polynomial.hermite_e.hermegauss(80))
    return math.sqrt(float((weight * ACTIVATIONS[name](point) ** 2).sum()) / math.sqrt(2 * math.pi))


class UnitActivation(nn.Module):
    """An activation divided by its root mean square under N(0, 1).

    Args:
        name: name of the activation: `relu`, `gelu` (the approximation by tanh) or `silu`.
    """

    def __init__(self, name: Activation) -> None:
        super().__init__()
        one_of(ACTIVATIONS, activation=name)
        self.function = ACTIVATIONS[name]
        self.scale = 1 / root_mean_square(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.function(x)


class NTKMLP(nn.Module):
    """An MLP whose N(0, 1) weights are scaled in the forward pass.

    Args:
        in_features: number of values of an input; for images, C H W.
        hidden_features: widths of the hidden layers; an empty list gives a perceptron (a network without hidden
            layers).
        activation: `relu`, `gelu` or `silu`.
        initial_std: standard deviation of the initial weights; for 0, a perceptron is initialised with zero weights.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: list[int],
        activation: Activation = "relu",
        initial_std: float = 1.0,
    ) -> None:
        super().__init__()
        if in_features < 1 or any(width < 1 for width in hidden_features):
            raise ValueError(
                f"widths must be positive, got in_features {in_features}, hidden_features {hidden_features}"
            )
        at_least(0, initial_std=initial_std)
        widths = [in_features, *hidden_features, 1]
        self.weights = nn.ParameterList(initial_std * torch.randn(wide, narrow) for narrow, wide in pairwise(widths))
        self.activation = UnitActivation(activation)
        self.output_scale = 1 / widths[-2] if hidden_features else 1 / math.sqrt(in_features)

    def forward(self, image: Tensor) -> Tensor:
        """Map inputs `[B, ...]`, with `in_features` values per sample, to outputs `[B, 1]`."""
        x, scale = image.flatten(start_dim=1), 1.0  # the layer's input is scale * x, to apply two factors at once
        *hidden, last = self.weights
        for weight in hidden:
            x = self.activation.function(F.linear(x, weight) * (scale / math.sqrt(weight.shape[1])))
            scale = self.activation.scale
        return F.linear(x, last) * (scale * self.output_scale)
