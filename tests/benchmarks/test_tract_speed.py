"""Time of a training step with TrAct in the first layer, divided by that of the unchanged network."""

import copy
import time
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.networks.cifar_vit import CIFARViT
from lightning_modules.networks.resnet_cifar_stem import CIFARStemResNet
from lightning_modules.optimization.tract import train_pre_activations
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


@pytest.mark.parametrize(
    ("name", "network", "batch", "size", "rounds"),
    [
        ("ResNet-18 on CIFAR-10, batches of 16", lambda: CIFARStemResNet(18), 16, 32, 21),
        ("ViT-CIFAR, batches of 16 (the paper: 1.097)", CIFARViT, 16, 32, 21),
        (
            "ViT-S of DeiT III, batches of 8 (the paper: 1.0008 at 2,048)",
            lambda: timm.create_model("deit3_small_patch16_224", num_classes=1000),
            8,
            224,
            7,
        ),
    ],
)
def test_a_step_over_that_of_the_plain_first_layer(
    name: str, network: Callable[[], nn.Module], batch: int, size: int, rounds: int, report: Report
) -> None:
    plain = network()
    changed = copy.deepcopy(plain)
    train_pre_activations(changed, None, ridge=0.1)
    image, label = torch.randn(batch, 3, size, size), torch.arange(batch) % 10

    def step(network: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

        def take() -> None:
            optimizer.zero_grad()
            F.cross_entropy(network(image), label).backward()
            optimizer.step()

        return take

    ratio = paired_ratio(step(changed), step(plain), rounds, time.process_time)
    report(f"CPU time of a training step with TrAct over the plain layer's, {name}", ratio, "<= 1.1")
    assert ratio <= 1.1
