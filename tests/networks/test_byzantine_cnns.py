"""The networks have the sizes and layers stated in their papers."""

import pytest
import torch
from torch import nn

from lightning_modules.networks.byzantine_cnns import CIFARCNN, MNISTCNN


@pytest.mark.parametrize(
    ("network", "shape", "parameters"), [(MNISTCNN(), (1, 28, 28), 431_080), (CIFARCNN(), (3, 32, 32), 1_310_922)]
)
def test_logits_and_parameters(network: nn.Module, shape: tuple[int, ...], parameters: int) -> None:
    network.eval()
    image = torch.rand(3, *shape)
    logits = network(image)
    assert logits.shape == (3, 10)
    torch.testing.assert_close(network(image[1:2]), logits[1:2])
    assert sum(each.numel() for each in network.parameters()) == parameters
