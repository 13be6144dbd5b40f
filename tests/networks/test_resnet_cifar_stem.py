import math

import pytest
import torch
from torch import nn
from torchvision.models import resnet34

from lightning_modules.networks.resnet_cifar_stem import CIFARStemResNet


def test_stages_halve_the_resolution_from_the_full_one() -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        network = CIFARStemResNet(34, num_classes=100)
        for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
            network.get_submodule(name).register_forward_hook(
                lambda module, args, output, name=name: shapes.update({name: tuple(output.shape[1:])})
            )
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    assert shapes["conv1"] == shapes["layer1"] == (64, 32, 32)
    assert [shapes[f"layer{i}"] for i in (2, 3, 4)] == [(128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_weights_are_torchvisions_but_for_the_stem_and_the_classifier() -> None:
    with torch.device("meta"):
        networks = CIFARStemResNet(34, num_classes=10, in_channels=1), resnet34()
        ours, theirs = ({key: value.shape for key, value in network.state_dict().items()} for network in networks)
    assert set(ours) == set(theirs)
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different == {"conv1.weight", "fc.weight", "fc.bias"}
    assert ours["conv1.weight"] == (64, 1, 3, 3)


def test_convolutions_start_uniform_within_one_over_the_root_of_the_fan_in() -> None:
    for module in CIFARStemResNet(18).modules():
        if isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.in_channels * module.kernel_size[0] * module.kernel_size[1])
            assert module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
