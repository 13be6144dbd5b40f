"""The cost of a Hessian product relative to a gradient, and of learning from curvature relative to training."""

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.dynamics.batch_lr import OnlineLearner
from lightning_modules.metrics.curvature import CurvatureProduct, curvature_mode
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.networks.cifar_vit import CIFARViT
from lightning_modules.networks.vgg import VGG
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
IMAGES, PRODUCTS = 16, 5


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(IMAGES) % 10


def step(network: nn.Module) -> Callable[[], None]:
    """Return a function that does a training step on the images."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    image, label = images()

    def take() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(image), label).backward()
        optimizer.step()

    return take


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("ResNet-20", lambda: CIFARResNet(20)),
        ("VGG-11 with BatchNorm", lambda: VGG(11, batch_norm=True)),
        ("ViT-CIFAR", lambda: CIFARViT()),
    ],
)
def test_a_product_over_a_gradient_on_the_same_images(
    name: str, network: Callable[[], nn.Module], report: Report
) -> None:
    net = network()
    vector = torch.randn(sum(each.numel() for each in net.parameters()))
    with curvature_mode(net, "batch"):
        batches = [images()]

        def products() -> None:
            product = CurvatureProduct(net, batches)
            for _ in range(PRODUCTS):
                product(vector)

        ratio = paired_ratio(products, step(net), rounds=3, clock=time.process_time) / PRODUCTS
    report(f"CPU time of a product with the Hessian, of {PRODUCTS}, over a gradient's, {name}", ratio, "<= 4")
    assert ratio <= 4


def test_learning_every_20_epochs_costs_little_of_the_training(report: Report) -> None:
    """A full run measures the curvature of 1,024 of 50,000 images in 20 steps; here, both numbers are divided by 64.

    The time for 16 images is thus compared with that of 20 epochs of 781 images, estimated from one training step.
    """
    net, learner = CIFARResNet(20), OnlineLearner("ssgdm", steps=20)
    with curvature_mode(net, "batch"):
        product = CurvatureProduct(net, [images()])
        over_a_step = paired_ratio(lambda: learner.measure(product), step(net), rounds=1, clock=time.process_time)
    ratio = over_a_step / (20 * (50_000 / 64) / IMAGES)
    report("CPU time of learning the rate over that of 20 epochs of CIFAR-10, ResNet-20", ratio, "<= 0.1")
    assert ratio <= 0.1
