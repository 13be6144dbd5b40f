"""The deep linear network: a product of matrices, without activations."""

from itertools import pairwise

from torch import Tensor, nn

from datamodules.arguments import at_least


class DeepLinear(nn.Module):
    """A product of matrices without biases. The narrowest matrix bounds the rank of the product.

    Args:
        in_features: number of values of an input.
        hidden_features: dimensions between the matrices; an empty list gives a single matrix.
        out_features: number of outputs.
    """

    def __init__(self, in_features: int, hidden_features: list[int], out_features: int) -> None:
        super().__init__()
        widths = [in_features, *hidden_features, out_features]
        at_least(1, width=min(widths))
        self.layers = nn.Sequential(*(nn.Linear(*pair, bias=False) for pair in pairwise(widths)))

    def forward(self, features: Tensor) -> Tensor:
        """Map inputs `[B, in_features]` to outputs `[B, out_features]`."""
        return self.layers(features)
