"""Networks for the drift, diffusion and control of the equation.

Drift and control depend on all dimensions of X jointly. The diffusion of a dimension depends only on that dimension.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def tanh_layers(in_features: int, hidden_features: Sequence[int], out_features: int, zero: bool = False) -> nn.Module:
    """Build a network of linear layers with tanh between them.

    Args:
        in_features: number of inputs.
        hidden_features: widths of the hidden layers.
        out_features: number of outputs.
        zero: whether to initialise the last layer to 0, so that a control has no effect at the start of training.
    """
    layers: list[nn.Module] = []
    for narrow, wide in pairwise([in_features, *hidden_features]):
        layers += [nn.Linear(narrow, wide), nn.Tanh()]
    last = nn.Linear(hidden_features[-1], out_features)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class DiagonalDiffusion(nn.Module):
    """D small networks, one for each dimension; each network maps a number to a positive number.

    Each network consists of linear layers with tanh between them, followed by softplus. All D networks are evaluated
    together by batched matrix products. The layers are initialised like `nn.Linear`.

    Args:
        num_latents: number of dimensions D.
        hidden_features: widths of the hidden layers.
    """

    def __init__(self, num_latents: int, hidden_features: Sequence[int]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for narrow, wide in pairwise([1, *hidden_features, 1]):
            layers = [nn.Linear(narrow, wide) for _ in range(num_latents)]
            self.weights.append(nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers])))
            self.biases.append(nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers])))

    def forward(self, x: Tensor) -> Tensor:
        """Map X, `[B, D]`, to the diffusion, `[B, D]`."""
        hidden = x.T[:, :, None]
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden.tanh() if number else hidden, weight)
        return nn.functional.softplus(hidden[:, :, 0].T)
