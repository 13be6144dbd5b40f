"""Cost of collecting the Mahalanobis detector's statistics, relative to its parts and to storing all features."""

from collections.abc import Callable

import pytest
import torch

from lightning_modules.networks.resnet_cifar_stem import CIFARStemResNet
from lightning_modules.robustness.mahalanobis.gaussians import ClassGaussians
from lightning_modules.robustness.mahalanobis.layers import layer_features, named_layers, num_features
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
LAYERS = ["relu", "layer1", "layer2", "layer3", "layer4"]


def test_statistics_against_the_forward_pass_alone(report: Report) -> None:
    network = CIFARStemResNet(18).eval()
    layers = named_layers(network, LAYERS)
    gaussians = ClassGaussians(10, num_features(network, layers, (3, 32, 32)))
    image, label = torch.rand(50, 3, 32, 32), torch.arange(50) % 10

    def ours() -> None:
        with torch.no_grad():
            _, features = layer_features(network, layers, image)
            gaussians.update(features, label)

    def theirs() -> None:
        with torch.no_grad():
            network(image)

    ratio = paired_ratio(ours, theirs, rounds=5)
    report("time of a batch of statistics over its forward pass, ResNet-18, batches of 50", ratio, "<= 1.15")
    assert ratio <= 1.15


def test_memory_against_stored_features(report: Report) -> None:
    network = CIFARStemResNet(34)
    widths = num_features(network, named_layers(network, LAYERS), (3, 32, 32))
    streamed = sum(buffer.numel() * buffer.element_size() for buffer in ClassGaussians(10, widths).buffers())
    stored = 50_000 * sum(widths) * 4
    report("bytes of streamed statistics over features of 50,000 images, ResNet-34", streamed / stored, "<= 0.02")
    assert streamed / stored <= 0.02
