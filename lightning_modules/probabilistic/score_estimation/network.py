"""The two-layer network of the theory, with a trained first layer and frozen output signs."""

import math

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least


class FrozenSignNetwork(nn.Module):
    """A network that maps z, `[B, p]`, to m^(-1/2) sum_r a_r relu(w_r . z), `[B, d]`.

    The second half of the neurons has the same initial weights as the first half, and the opposite output signs, so
    that the initial output is zero.

    Args:
        in_features: number of inputs p.
        out_features: number of outputs d.
        width: number m of neurons, even.
    """

    signs: Tensor

    def __init__(self, in_features: int, out_features: int, width: int) -> None:
        super().__init__()
        at_least(1, in_features=in_features, out_features=out_features)
        at_least(2, width=width)
        if width % 2:
            raise ValueError(f"width must be even, got {width}")
        half = torch.randn(width // 2, in_features)
        self.weight = nn.Parameter(half.repeat(2, 1))
        signs = torch.randint(2, (width // 2, out_features)).to(half.dtype) * 2 - 1
        self.register_buffer("signs", torch.cat([signs, -signs]))

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.weight.T).relu() @ self.signs / math.sqrt(len(self.weight))
