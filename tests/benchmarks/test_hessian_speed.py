"""Speed of Hessian products relative to curvlinops, on one batch and on several batches."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_modules.metrics.curvature import CurvatureProduct, curvature_mode
from lightning_modules.networks.cifar_resnet import CIFARResNet
from tests.benchmarks.pairs import paired_ratio
from tests.benchmarks.peers import peer

pytestmark = pytest.mark.benchmark
PRODUCTS = 5


@pytest.mark.parametrize("batches", [1, 4])
def test_products_beside_curvlinops(batches: int, report: Callable[[str, float, str], None]) -> None:
    curvlinops, name = peer("curvlinops", "curvlinops-for-pytorch")
    network = CIFARResNet(20)
    image = torch.randn(8 * batches, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = list(zip(image.split(8), (torch.arange(len(image)) % 10).split(8), strict=True))
    vector = torch.randn(sum(each.numel() for each in network.parameters()))
    with curvature_mode(network, "running"):
        operator = curvlinops.HessianLinearOperator(
            network, nn.CrossEntropyLoss(), list(network.parameters()), data, check_deterministic=False
        )

        def ours() -> torch.Tensor:
            product = CurvatureProduct(network, data)
            return [product(vector) for _ in range(PRODUCTS)][-1]

        def theirs() -> torch.Tensor:
            return [operator @ vector for _ in range(PRODUCTS)][-1]

        torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-4)
        ratio = paired_ratio(ours, theirs, rounds=3, clock=time.process_time)
    kind = "one batch" if batches == 1 else f"{batches} batches"
    report(f"CPU time of {PRODUCTS} products with the Hessian of {kind} of 8, ResNet-20, over {name}", ratio, "<= 1")
    assert ratio <= 1
