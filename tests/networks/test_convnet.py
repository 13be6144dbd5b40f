import torch
from torch import nn

from lightning_modules.networks.convnet import ConvNet


def test_it_is_convolutions_with_relu_a_mean_and_a_classifier() -> None:
    network, image = ConvNet(2, [3, 5], 4), torch.rand(6, 2, 7, 8)
    first, second = (network.get_submodule(f"conv{number}") for number in (1, 2))
    features = second(first(image).relu()).relu().mean(dim=(2, 3))
    torch.testing.assert_close(network(image), network.classifier(features))
    assert [name for name, _ in network.named_children()] == ["conv1", "relu1", "conv2", "relu2", "classifier"]
    assert isinstance(first, nn.Conv2d)
    assert first.padding == (1, 1)
